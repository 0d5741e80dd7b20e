//! What the host's network looks like, and each change of it while truepeer runs.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkLayerType, LinkMessage},
    },
};
use tokio::sync::mpsc;

/// The host's own addresses, broadcast addresses included.
#[derive(Clone, Default)]
pub struct Addresses {
    of_devices: Arc<RwLock<HashMap<IpAddr, Holders>>>,
    /// Networks that are the host's by a route.
    by_route: Arc<RwLock<BTreeSet<IpNet>>>,
}

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
    fn devices(&self) -> RwLockReadGuard<'_, HashMap<IpAddr, Holders>> {
        self.of_devices
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn devices_mut(&self) -> RwLockWriteGuard<'_, HashMap<IpAddr, Holders>> {
        self.of_devices
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        self.devices().contains_key(address)
    }

    /// Whether one of the host's own is a device's, or the host's by a route, or else a broadcast address.
    pub fn is_unicast(&self, address: &IpAddr) -> Option<bool> {
        let map = self.devices();
        if let Some(holders) = map.get(address) {
            return Some(!holders.unicast.is_empty());
        }
        let nets = self.by_route.read().unwrap_or_else(PoisonError::into_inner);
        nets.iter().any(|net| net.contains(address)).then_some(true)
    }

    /// What is the host's by a route from now on.
    pub fn set_by_route(&self, nets: &BTreeSet<IpNet>) {
        let mut known = self
            .by_route
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        known.clone_from(nets);
    }

    /// The devices' own in `net`, with the devices' indices.
    pub fn unicast_in(&self, net: &IpNet) -> Vec<(IpAddr, u32)> {
        let map = self.devices();
        let inside = map.iter().filter(|(address, _)| net.contains(*address));
        inside
            .flat_map(|(address, holders)| holders.unicast.iter().map(|index| (*address, *index)))
            .collect()
    }

    /// All of them, and whether each is a device's own.
    pub fn unicast_or_not(&self) -> Vec<(IpAddr, bool)> {
        let map = self.devices();
        let each = map.iter();
        each.map(|(address, holders)| (*address, !holders.unicast.is_empty()))
            .collect()
    }

    fn replace(&self, with: Self) {
        let mut map = self.devices_mut();
        let mut with = with.devices_mut();
        *map = mem::take(&mut *with);
    }

    fn add(&self, message: &AddressMessage) {
        let mut map = self.devices_mut();
        for (address, is_unicast) in addresses(message) {
            let holders = map.entry(address).or_default();
            holders.of(is_unicast).insert(message.header.index);
        }
    }

    fn remove(&self, message: &AddressMessage) {
        let mut map = self.devices_mut();
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
    /// Its address, if it is an Ethernet device's.
    pub mac: Option<[u8; 6]>,
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
    let (events, links) = mpsc::unbounded_channel();
    let mut watch = Watch {
        netlink,
        addresses: Addresses::default(),
        events,
        present: BTreeSet::new(),
    };
    watch.read().await?;
    let addresses = watch.addresses.clone();
    tokio::spawn(async move {
        while let Some((message, _)) = changes.next().await {
            watch.apply(message.payload).await;
        }
        tracing::error!("netlink closed: new devices and addresses go unnoticed");
    });
    Ok(Host { addresses, links })
}

struct Watch {
    netlink: Handle,
    addresses: Addresses,
    events: mpsc::UnboundedSender<LinkEvent>,
    /// The devices that were told of.
    present: BTreeSet<u32>,
}

impl Watch {
    /// All of it. What is gone since the last time is told as well.
    async fn read(&mut self) -> Result<()> {
        let fresh = Addresses::default();
        let mut known = self.netlink.address().get().execute();
        while let Some(message) = known.try_next().await.context("reading addresses")? {
            fresh.add(&message);
        }
        self.addresses.replace(fresh);
        let mut gone = mem::take(&mut self.present);
        let mut known = self.netlink.link().get().execute();
        while let Some(message) = known.try_next().await.context("reading devices")? {
            gone.remove(&message.header.index);
            self.is_there(&message);
        }
        gone.into_iter().for_each(|index| self.is_gone(index));
        Ok(())
    }

    async fn apply(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        match payload {
            NetlinkPayload::InnerMessage(message) => match message {
                RouteNetlinkMessage::NewLink(message) => self.is_there(&message),
                RouteNetlinkMessage::DelLink(message) => self.is_gone(message.header.index),
                RouteNetlinkMessage::NewAddress(message) => self.addresses.add(&message),
                RouteNetlinkMessage::DelAddress(message) => self.addresses.remove(&message),
                _ => {}
            },
            // There were more changes than the kernel keeps for us.
            NetlinkPayload::Overrun(_) => {
                if let Err(error) = self.read().await {
                    tracing::error!("new devices and addresses may go unnoticed: {error:#}");
                }
            }
            _ => {}
        }
    }

    fn is_there(&mut self, message: &LinkMessage) {
        self.present.insert(message.header.index);
        if let Some(event) = present(message) {
            self.tell(event);
        }
    }

    fn is_gone(&mut self, index: u32) {
        self.present.remove(&index);
        self.tell(LinkEvent::Gone { index });
    }

    /// Nobody listens any more once the daemon stops.
    fn tell(&self, event: LinkEvent) {
        let _ = self.events.send(event);
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
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mac = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::Address(address) => address.as_slice().try_into().ok(),
        _ => None,
    };
    Some(LinkEvent::Present(Link {
        name,
        index: message.header.index,
        ethernet,
        mac: message.attributes.iter().find_map(mac).filter(|_| ethernet),
        is_port: message
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::Controller(index) if *index != 0)),
    }))
}
