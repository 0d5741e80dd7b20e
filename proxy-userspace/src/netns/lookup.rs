//! Which way the host's packets to an address go, and whether the next one on that way is there.

use std::{io, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        link::LinkAttribute,
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
        },
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia},
    },
};
use tokio::time::{Instant, sleep};

use super::netlink;

#[derive(Debug)]
pub enum Way {
    /// The host's own address.
    Here,
    /// All hosts of a link.
    Broadcast,
    Out(NextHop),
    Nowhere(io::Error),
}

/// Whom the host hands packets to: a router, or their destination itself.
#[derive(Debug)]
pub struct NextHop {
    pub address: IpAddr,
    pub is_router: bool,
    pub device: String,
    index: u32,
}

pub async fn way_to(address: IpAddr) -> Result<Way> {
    let netlink = netlink()?;
    let mut routes = netlink.route().get(to(address)?).execute();
    match routes.try_next().await {
        Ok(Some(route)) => way(&netlink, address, &route).await,
        Ok(None) => Ok(Way::Nowhere(io::ErrorKind::NetworkUnreachable.into())),
        Err(rtnetlink::Error::NetlinkError(error)) => Ok(Way::Nowhere(error.to_io())),
        Err(error) => Err(error).context("asking for a route"),
    }
}

/// Whether a route leads to `address` by the device of this index.
pub async fn has_route_by(address: IpAddr, index: u32) -> Result<bool> {
    let mut request = to(address)?;
    request.attributes.push(RouteAttribute::Oif(index));
    // Without it, the kernel takes anybody for a neighbour there.
    request.header.flags |= RouteFlags::FibMatch;
    // Lives as long as its answers are waited for.
    let netlink = netlink()?;
    let mut routes = netlink.route().get(request).execute();
    match routes.try_next().await {
        Ok(route) => Ok(route.is_some_and(|route| route.header.kind == RouteType::Unicast)),
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(false),
        Err(error) => Err(error).context("asking for a route"),
    }
}

fn to(address: IpAddr) -> Result<RouteMessage> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let request = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, bits);
    Ok(request.context("a route to one address")?.build())
}

async fn way(netlink: &Handle, address: IpAddr, route: &RouteMessage) -> Result<Way> {
    match route.header.kind {
        RouteType::Local => return Ok(Way::Here),
        RouteType::Broadcast => return Ok(Way::Broadcast),
        RouteType::Unicast => {}
        _ => return Ok(Way::Nowhere(io::ErrorKind::NetworkUnreachable.into())),
    }
    let find =
        |wanted: fn(&RouteAttribute) -> Option<IpAddr>| route.attributes.iter().find_map(wanted);
    let router = find(gateway);
    let index = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
    let index = index.context("a route without a device")?;
    Ok(Way::Out(NextHop {
        address: router.unwrap_or(address),
        is_router: router.is_some(),
        device: name(netlink, index).await?,
        index,
    }))
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4))
        | RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6))
        | RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

/// The name of the device of this index.
pub async fn name(netlink: &Handle, index: u32) -> Result<String> {
    let mut links = netlink.link().get().match_index(index).execute();
    let link = links.try_next().await.context("reading a device")?;
    let mut attributes = link.into_iter().flat_map(|link| link.attributes);
    let name = attributes.find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    name.context("a device without a name")
}

/// Whether the next one is there. The kernel asks (ARP, neighbour discovery) if it doesn't know.
pub async fn answers(hop: &NextHop) -> Result<bool> {
    // The kernel asks three times, a second apart.
    const PATIENCE: Duration = Duration::from_secs(4);
    const PAUSE: Duration = Duration::from_millis(50);
    let netlink = netlink()?;
    let give_up = Instant::now() + PATIENCE;
    loop {
        match state(&netlink, hop).await? {
            Some(Known::There) => return Ok(true),
            Some(Known::Asking) => {}
            None => ask(&netlink, hop).await?,
        }
        if Instant::now() > give_up {
            return Ok(false);
        }
        sleep(PAUSE).await;
    }
}

/// What the kernel thinks of a neighbour that it has heard of.
enum Known {
    There,
    Asking,
}

async fn state(netlink: &Handle, hop: &NextHop) -> Result<Option<Known>> {
    let mut neighbours = netlink.neighbours().get().execute();
    while let Some(neighbour) = neighbours.try_next().await.context("reading neighbours")? {
        if is(&neighbour, hop) {
            return Ok(match neighbour.header.state {
                NeighbourState::Incomplete => Some(Known::Asking),
                NeighbourState::None | NeighbourState::Failed => None,
                _ => Some(Known::There),
            });
        }
    }
    Ok(None)
}

fn is(neighbour: &NeighbourMessage, hop: &NextHop) -> bool {
    neighbour.header.ifindex == hop.index
        && neighbour
            .attributes
            .iter()
            .any(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => hop.address == *v4,
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => hop.address == *v6,
                _ => false,
            })
}

/// Has the kernel look for it, without a packet of ours.
async fn ask(netlink: &Handle, hop: &NextHop) -> Result<()> {
    let request = netlink.neighbours().add(hop.index, hop.address);
    let request = request
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use);
    request
        .replace()
        .execute()
        .await
        .context("asking for a neighbour")
}
