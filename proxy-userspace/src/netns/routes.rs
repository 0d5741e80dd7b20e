//! A way out for replies on a host that has none: the kernel looks for a route to the client before
//! any program sees the reply.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::route::{RouteHeader, RouteMessage, RouteScope, RouteType},
};

use super::Device;

/// Whether the main table has a default route of `family`. A reply is not looked for in others:
/// no rule of the host's own can know a steer address.
pub async fn has_default(netlink: &Handle, family: &IpAddr) -> Result<bool, Error> {
    let all = match family {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    let mut routes = netlink.route().get(all).execute();
    while let Some(route) = routes.try_next().await? {
        if is_default(&route) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_default(RouteMessage { header, .. }: &RouteMessage) -> bool {
    header.destination_prefix_length == 0
        && header.source_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

/// The last choice of all routes, which goes with the device. What the host itself sends there, from
/// the steer address, is refused in the spoof namespace.
pub async fn add_default(netlink: &Handle, device: &Device, steer: &IpAddr) -> Result<(), Error> {
    let any = match steer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let route = RouteMessageBuilder::<IpAddr>::new().output_interface(device.index);
    // Only a prefix longer than its family allows is refused.
    let route = route.destination_prefix(any, 0).unwrap_or_default();
    let mut route = route.scope(RouteScope::Link).priority(u32::MAX);
    if steer.is_ipv4() {
        // The device may have no address of its own to choose.
        route = route.pref_source(*steer).unwrap_or_default();
    }
    netlink.route().add(route.build()).execute().await
}
