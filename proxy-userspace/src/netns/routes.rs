//! A way out for replies on a host that has none: the kernel looks for a route to the client before
//! any program sees the reply.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use proxy_common::MAX_ROUTES;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
            RouteScope, RouteType,
        },
    },
    sys::AsyncSocket as _,
};

use super::{Device, netlink};

/// Of routes that are remembered: nobody has as many and no default route, but who has a whole table.
const MOST: usize = MAX_ROUTES as usize;
/// The metric behind all that others choose.
const LAST: u32 = u32::MAX;

/// Hears where the host's own traffic can go while our default route is there.
pub trait LastResort: Send {
    /// `others`: all other routes of the family; none: ours isn't there.
    fn tell(&mut self, is_v6: bool, others: Option<&[IpNet]>);
    /// The least MTU that any of the others has of its own.
    fn tell_mtu(&mut self, is_v6: bool, least: Option<u32>);
}

/// Nobody has to hear of it yet.
impl LastResort for () {
    fn tell(&mut self, _: bool, _: Option<&[IpNet]>) {}
    fn tell_mtu(&mut self, _: bool, _: Option<u32>) {}
}

/// Has a default route of the family of `steer` by our device if the host has none of its own, and
/// none if it has one. A reply's way is looked for in the main table alone: no rule of the host's own
/// can know a steer address.
pub async fn keep_default(
    netlink: &Handle,
    device: &Device,
    steer: &IpAddr,
    last_resort: &mut dyn LastResort,
) -> Result<(), Error> {
    let is_v6 = steer.is_ipv6();
    let (mut own, mut has_others, mut others) = (None, false, Vec::new());
    let mut least: Option<u32> = None;
    let mut routes = netlink.route().get(all(is_v6)).execute();
    while let Some(route) = routes.try_next().await? {
        if !is_last_resort(&route) {
            has_others |= is_default(&route);
            least = mtu(&route).into_iter().chain(least).min();
            if others.len() <= MOST {
                others.extend(destination(&route));
            }
        } else if is_default(&route) && ways(&route).any(|index| index == device.index) {
            own = Some(route);
        }
    }
    last_resort.tell_mtu(is_v6, least);
    if !has_others {
        last_resort.tell(is_v6, Some(&others));
        return match own {
            None => add_default(netlink, device, steer).await,
            Some(_) => Ok(()),
        };
    }
    if let Some(route) = own {
        netlink.route().del(route).execute().await?;
    }
    last_resort.tell(is_v6, None);
    Ok(())
}

/// What asks for all routes of a family.
fn all(is_v6: bool) -> RouteMessage {
    match is_v6 {
        false => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        true => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    }
}

/// Networks that are the host's own by a route: what somebody has given it so, and the address of all routers of a
/// subnet that it is one of. The kernel's own routes to devices' addresses are not among them.
pub async fn own_nets() -> Result<BTreeSet<IpNet>> {
    let (mut connection, netlink, _) = rtnetlink::new_connection().context("opening netlink")?;
    // So that the kernel leaves other tables out, which may be large.
    let socket = connection.socket_mut().socket_mut();
    socket.set_netlink_get_strict_chk(true)?;
    tokio::spawn(connection);
    let mut nets = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = libc::RT_TABLE_LOCAL;
        let mut routes = netlink.route().get(request).execute();
        while let Some(route) = routes.try_next().await.context("reading local routes")? {
            nets.extend(destination(&route).filter(|net| is_own_net(&route, net)));
        }
    }
    Ok(nets)
}

fn is_own_net(RouteMessage { header, .. }: &RouteMessage, net: &IpNet) -> bool {
    let is_address =
        header.protocol == RouteProtocol::Kernel && net.prefix_len() == net.max_prefix_len();
    match header.kind {
        RouteType::Anycast => true,
        RouteType::Local => !is_address && !net.addr().is_loopback(),
        _ => false,
    }
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let any = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut attributes = route.attributes.iter();
    let given = attributes.find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    });
    IpNet::new(given.unwrap_or(any), route.header.destination_prefix_length).ok()
}

/// Its own.
fn mtu(route: &RouteMessage) -> Option<u32> {
    let mut metrics = route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => &metrics[..],
            _ => &[],
        });
    metrics.find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
        _ => None,
    })
}

/// The devices that routes lead to, beyond each one's own link; none if a route doesn't say.
pub async fn routed_devices() -> Result<Option<HashSet<u32>>> {
    let netlink = netlink()?;
    let mut devices = HashSet::new();
    for is_v6 in [false, true] {
        let mut routes = netlink.route().get(all(is_v6)).execute();
        while let Some(route) = routes.try_next().await.context("reading routes")? {
            if route.header.kind != RouteType::Unicast || is_of_the_link(&route) {
                continue;
            }
            let known: Vec<_> = ways(&route).collect();
            if known.is_empty() {
                return Ok(None);
            }
            devices.extend(known);
        }
    }
    Ok(Some(devices))
}

/// Each device that has IPv6 has such a route.
fn is_of_the_link(route: &RouteMessage) -> bool {
    let to = destination(route).map(|net| net.network());
    matches!(to, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() || v6.is_multicast())
}

fn ways(route: &RouteMessage) -> impl Iterator<Item = u32> {
    route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
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
