//! A way out for replies on a host that has none: the kernel looks for a route to the client before
//! any program sees the reply.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
};

use super::Device;

/// The metric behind all that others choose.
const LAST: u32 = u32::MAX;

/// Has a default route of the family of `steer` by our device if the host has none of its own, and
/// none if it has one. A reply's way is looked for in the main table alone: no rule of the host's own
/// can know a steer address.
pub async fn keep_default(netlink: &Handle, device: &Device, steer: &IpAddr) -> Result<(), Error> {
    let all = match steer {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    let (mut own, mut has_others) = (None, false);
    let mut routes = netlink.route().get(all).execute();
    while let Some(route) = routes.try_next().await? {
        if !is_default(&route) {
        } else if !is_last_resort(&route) {
            has_others = true;
        } else if route
            .attributes
            .contains(&RouteAttribute::Oif(device.index))
        {
            own = Some(route);
        }
    }
    match own {
        None if !has_others => add_default(netlink, device, steer).await,
        Some(route) if has_others => netlink.route().del(route).execute().await,
        _ => Ok(()),
    }
}

fn is_default(RouteMessage { header, .. }: &RouteMessage) -> bool {
    header.destination_prefix_length == 0
        && header.source_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

/// This instance's, or another's.
fn is_last_resort(route: &RouteMessage) -> bool {
    route.attributes.contains(&RouteAttribute::Priority(LAST))
}

/// The last choice of all routes, which goes with the device. What the host itself sends there, from
/// the steer address, is refused in the spoof namespace.
async fn add_default(netlink: &Handle, device: &Device, steer: &IpAddr) -> Result<(), Error> {
    let any = match steer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let route = RouteMessageBuilder::<IpAddr>::new().output_interface(device.index);
    // Only a prefix longer than its family allows is refused.
    let route = route.destination_prefix(any, 0).unwrap_or_default();
    let mut route = route.scope(RouteScope::Link).priority(LAST);
    if steer.is_ipv4() {
        // The device may have no address of its own to choose.
        route = route.pref_source(*steer).unwrap_or_default();
    }
    netlink.route().add(route.build()).execute().await
}
