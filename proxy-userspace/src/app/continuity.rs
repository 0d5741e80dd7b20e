//! From one daemon of an instance to the next, by way of the keeper.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use anyhow::{Context, Result, bail, ensure};
use proxy_common::LAYOUT;
use rustix::process::Pid;
use socket2::Socket;

use super::{
    listen::Listeners,
    setup::{Left, SetUp},
};
use crate::{
    config::Config,
    keeper::{self, Held, Item, Items, Kind, Orders, Taken},
    kernel::{Adopted, Change, Inheritance, LINK, shared_map},
    netns::SpoofNs,
};

const NAMESPACE: &str = "namespace";
const SOCK_DIAG: &str = "sock_diag";
const LISTENER: &str = "listener:";
/// The last of all, as they are handed on in the order of their names: see [`Item::of`].
const STEER_DEVICE: &str = "steer device";

/// A daemon of this instance that was before this one, or still is.
pub struct Predecessor {
    taken: Taken,
    /// What goes into the set-up, until it is made.
    left: Option<Left>,
    listeners: HashMap<SocketAddr, Vec<Socket>>,
}

impl Predecessor {
    /// None if there is nothing to continue. A daemon that lives is left alone unless that was asked
    /// for.
    pub async fn find(config: &Config) -> Result<Option<Self>> {
        let instance = &config.instance;
        let Some(mut taken) = keeper::take(instance).await? else {
            return Ok(None);
        };
        if let (Some(pid), false) = (taken.daemon, config.take_over) {
            bail!(
                "instance {instance} is running already (process {pid}): choose another name with \
                 --instance, or continue it with --take-over"
            );
        }
        let layout = taken.orders.layout;
        ensure!(
            layout == LAYOUT,
            "no take-over: instance {instance} has maps of layout {layout}, and this version's are of \
             {LAYOUT}; stop it, and start this one"
        );
        let mut sorted = Sorted::default();
        for (name, item) in std::mem::take(&mut taken.items) {
            sorted.add(name, item);
        }
        let steer = taken.orders.steer.clone();
        let (left, listeners) = sorted.finish(steer).context("no take-over")?;
        Ok(Some(Self {
            taken,
            left: Some(left),
            listeners,
        }))
    }

    /// The process that serves until this one does.
    pub fn living(&self) -> Option<Pid> {
        self.taken.daemon
    }

    pub fn left(&mut self) -> Option<Left> {
        self.left.take()
    }

    pub fn listeners(&mut self) -> HashMap<SocketAddr, Vec<Socket>> {
        std::mem::take(&mut self.listeners)
    }

    /// From here on the caller is the instance's daemon.
    async fn succeed(self, mut orders: Orders, items: Items) -> Result<Held> {
        // Open connections may be of addresses that are of no use to new ones.
        for address in &self.taken.orders.steer {
            if !orders.steer.contains(address) {
                orders.steer.push(*address);
            }
        }
        self.taken.done(orders, items).await
    }
}

/// What the keeper gave, by what it is for.
#[derive(Default)]
struct Sorted {
    netns: Option<OwnedFd>,
    steer_device: Option<OwnedFd>,
    maps: Vec<(String, crate::kernel::MapShape, OwnedFd)>,
    links: HashMap<String, (crate::kernel::LinkPlace, OwnedFd)>,
    listeners: HashMap<SocketAddr, Vec<Socket>>,
}

impl Sorted {
    fn add(&mut self, name: String, Item { kind, fd }: Item) {
        match kind {
            Kind::Namespace(_) if name == NAMESPACE => self.netns = Some(fd),
            Kind::Tun(_) if name == STEER_DEVICE => self.steer_device = Some(fd),
            Kind::Map(shape) => {
                if let Some(map) = shared_map(&name) {
                    self.maps.push((map.to_owned(), shape, fd));
                }
            }
            Kind::Link(place) if name.starts_with(LINK) => {
                self.links.insert(name, (place, fd));
            }
            Kind::Listener(_) if let Some(address) = listens_at(&name) => {
                self.listeners.entry(address).or_default().push(fd.into());
            }
            kind => tracing::debug!(?kind, name, "of no use"),
        }
    }

    fn finish(self, steer: Vec<IpAddr>) -> Result<(Left, HashMap<SocketAddr, Vec<Socket>>)> {
        let netns = self.netns.context("the keeper has no namespace")?;
        let maps = Adopted::new(self.maps)?;
        let inheritance = Inheritance {
            maps,
            links: self.links,
        };
        let left = Left {
            netns,
            steer_device: self.steer_device,
            steer,
            inheritance,
        };
        Ok((left, self.listeners))
    }
}

/// Ends the applications' connections that a daemon and a keeper have left that were killed at once.
/// Nobody else has steer addresses of these networks.
pub async fn end_forgotten(spoof: &SpoofNs) {
    match keeper::end_connections(spoof.steer.nets()).await {
        Ok(0) => {}
        Ok(count) => tracing::warn!("{count} connections of a killed daemon were ended"),
        Err(error) => tracing::warn!("connections of a killed daemon may be left: {error:#}"),
    }
}

/// What the keeper has to hold of `listeners`.
pub fn listeners(listeners: &[Listeners]) -> Result<Items> {
    let mut items = Items::new();
    for (worker, listeners) in listeners.iter().enumerate() {
        for (number, listening) in listeners.iter().enumerate() {
            let of_address = name(listening.at);
            // A worker may have several at one address.
            items.insert(
                format!("{of_address}{worker}.{number}"),
                Item::of(&listening.socket)?,
            );
        }
    }
    Ok(items)
}

fn name(address: SocketAddr) -> String {
    format!("{LISTENER}{address}/")
}

/// Where balancers connect to, by a listener's name.
fn listens_at(item: &str) -> Option<SocketAddr> {
    let (address, _) = item.strip_prefix(LISTENER)?.split_once('/')?;
    address.parse().ok()
}

/// Whether an item is a listener at this address.
pub fn is_listener_at(item: &str, address: SocketAddr) -> bool {
    item.starts_with(&name(address))
}

/// Hands everything to a keeper: to the predecessor's, or to one of its own. None on kernels where
/// programs can't be handed on.
pub async fn hold(
    config: &Config,
    set_up: &mut SetUp,
    mut items: Items,
    predecessor: Option<Predecessor>,
) -> Result<Option<Held>> {
    if !set_up.kernel.can_be_inherited() {
        return Ok(None);
    }
    items.insert(NAMESPACE.into(), Item::of(set_up.spoof.netns())?);
    items.insert(SOCK_DIAG.into(), Item::of(set_up.spoof.sock_diag())?);
    for change in set_up.kernel.changes() {
        match change {
            Change::Hold(name, fd) => drop(items.insert(name, Item::new(fd)?)),
            Change::Release(name) => drop(items.remove(&name)),
        }
    }
    if let Some(steer_device) = set_up.spoof.steer_device() {
        items.insert(STEER_DEVICE.into(), Item::of(steer_device)?);
    }
    let addresses: Vec<IpAddr> = set_up.routes.addresses().to_vec();
    let orders = Orders {
        layout: LAYOUT,
        steer: addresses,
        grace: config.orphan_timeout,
    };
    if let Some(predecessor) = predecessor {
        return predecessor.succeed(orders, items).await.map(Some);
    }
    let mut held = Held::start(&config.instance, orders).await?;
    held.hold_all(items);
    Ok(Some(held))
}

/// Tells the keeper what has changed.
pub fn tell(held: &mut Held, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Hold(name, fd) => match Item::new(fd) {
                Ok(item) => held.hold_all(Items::from([(name, item)])),
                Err(error) => tracing::warn!("handing {name} to the keeper: {error:#}"),
            },
            Change::Release(name) => held.release(&name),
        }
    }
}
