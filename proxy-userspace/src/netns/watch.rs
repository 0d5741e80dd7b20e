//! What the host's network looks like, and each change of it while truepeer runs.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::Ipv4Net;
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkLayerType, LinkMessage},
    },
};
use tokio::sync::mpsc;

/// The host's own addresses, broadcast addresses included.
#[derive(Clone, Default)]
pub struct Addresses(Arc<RwLock<HashMap<IpAddr, Holders>>>);

/// The devices that have an address as their own, and as their link's broadcast address.
#[derive(Default)]
struct Holders {
    unicast: BTreeSet<u32>,
    broadcast: BTreeSet<u32>,
}

impl Holders {
    fn of(&mut self, is_unicast: bool) -> &mut BTreeSet<u32> {
        if is_unicast {
            &mut self.unicast
        } else {
            &mut self.broadcast
        }
    }
}

impl Addresses {
    pub fn contains(&self, address: &IpAddr) -> bool {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.contains_key(address)
    }

    /// All of them, and whether each is a device's own.
    pub fn unicast_or_not(&self) -> Vec<(IpAddr, bool)> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let each = map.iter();
        each.map(|(address, holders)| (*address, !holders.unicast.is_empty()))
            .collect()
    }

    fn add(&self, message: &AddressMessage) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (address, is_unicast) in addresses(message) {
            let holders = map.entry(address).or_default();
            holders.of(is_unicast).insert(message.header.index);
        }
    }

    fn remove(&self, message: &AddressMessage) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (address, is_unicast) in addresses(message) {
            if let Entry::Occupied(mut entry) = map.entry(address) {
                let holders = entry.get_mut();
                holders.of(is_unicast).remove(&message.header.index);
                if holders.unicast.is_empty() && holders.broadcast.is_empty() {
                    entry.remove();
                }
            }
        }
    }
}

/// A device as far as attaching to it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// Whether its packets carry an Ethernet header.
    pub ethernet: bool,
    /// Whether it is a port of another device: a bridge's, a bond's.
    pub is_port: bool,
}

#[derive(Debug)]
pub enum LinkEvent {
    Present(Link),
    Gone { index: u32 },
}

/// The host as it is now, and what changes from here on.
pub struct Host {
    pub addresses: Addresses,
    pub links: mpsc::UnboundedReceiver<LinkEvent>,
}

/// Reads what is there and goes on with each change, on the current runtime. Subscribed before it
/// reads, so nothing falls between.
pub async fn watch() -> Result<Host> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, netlink, mut changes) =
        rtnetlink::new_multicast_connection(&groups).context("subscribing to netlink")?;
    tokio::spawn(connection);
    let addresses = Addresses::default();
    let mut known = netlink.address().get().execute();
    while let Some(message) = known.try_next().await.context("reading addresses")? {
        addresses.add(&message);
    }
    let (events, links) = mpsc::unbounded_channel();
    let mut known = netlink.link().get().execute();
    while let Some(message) = known.try_next().await.context("reading devices")? {
        tell(&events, present(&message));
    }
    let host = Host {
        addresses: addresses.clone(),
        links,
    };
    tokio::spawn(async move {
        while let Some((message, _)) = changes.next().await {
            apply(message, &addresses, &events);
        }
        tracing::error!("netlink closed: new devices and addresses go unnoticed");
    });
    Ok(host)
}

/// Nobody listens any more once the daemon stops.
fn tell(events: &mpsc::UnboundedSender<LinkEvent>, event: Option<LinkEvent>) {
    let _ = event.map(|event| events.send(event));
}

fn apply(
    message: NetlinkMessage<RouteNetlinkMessage>,
    addresses: &Addresses,
    events: &mpsc::UnboundedSender<LinkEvent>,
) {
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return;
    };
    match message {
        RouteNetlinkMessage::NewLink(message) => tell(events, present(&message)),
        RouteNetlinkMessage::DelLink(message) => {
            let index = message.header.index;
            tell(events, Some(LinkEvent::Gone { index }));
        }
        RouteNetlinkMessage::NewAddress(message) => addresses.add(&message),
        RouteNetlinkMessage::DelAddress(message) => addresses.remove(&message),
        _ => {}
    }
}

/// The addresses that are this host's (true), or its link's broadcast. On a point-to-point device
/// `Address` is the other end's, and `Local` is ours; IPv6 has `Address` alone.
fn addresses(message: &AddressMessage) -> impl Iterator<Item = (IpAddr, bool)> {
    let (mut local, mut address, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(IpAddr::V4(*ip)),
            _ => {}
        }
    }
    let own = local.or(address);
    let directed = own.and_then(|own| directed_broadcast(own, message.header.prefix_len));
    let own = own.map(|own| (own, true));
    let broadcast = [broadcast, directed].into_iter().flatten();
    own.into_iter()
        .chain(broadcast.map(|broadcast| (broadcast, false)))
}

/// The kernel has this one whether or not the address names a broadcast address.
fn directed_broadcast(own: IpAddr, prefix_len: u8) -> Option<IpAddr> {
    const POINT_TO_POINT: u8 = 31;
    match own {
        IpAddr::V4(own) if prefix_len < POINT_TO_POINT => {
            Some(Ipv4Net::new(own, prefix_len).ok()?.broadcast().into())
        }
        _ => None,
    }
}

fn present(message: &LinkMessage) -> Option<LinkEvent> {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })?;
    Some(LinkEvent::Present(Link {
        name,
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        is_port: message
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::Controller(index) if *index != 0)),
    }))
}
