//! The spoof namespace: a network namespace that only the daemon and its keeper hold, in which every
//! address is local, joined to the host by one veth pair. All of it by netlink; all of it gone with the
//! processes.

mod bell;
mod host;
mod lookup;
mod routes;
mod sockets;
mod spoof;
mod steer;
mod tun;
mod upkeep;
mod watch;
mod xdp;

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result};

pub use bell::{Bell, is_unsupported};
pub use host::{keep_forwarding, keep_loose};
pub use lookup::{NextHop, Way, answers, has_route_by, name as device_name, way_to};
pub use routes::{LastResort, own_nets, routed_devices};
pub use sockets::{Entrance, Local, SocketState, TcpSocket, TcpSockets, UdpSockets};
pub use steer::{Families, SteerNet, SteerNets, is_unicast};
pub use upkeep::Upkeep;
pub use watch::{Addresses, Host, Link, LinkEvent, watch};
pub use xdp::{Driver, driver};

use crate::sys;
use tun::SteerDevice;

/// The host's end of the veth pair.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub index: u32,
    /// Tells instances on one host apart: their devices and their default steer addresses.
    pub number: u16,
}

impl Device {
    /// The name of the one beside it, for IPv4 steer addresses.
    fn steer_device(&self) -> String {
        format!("{}s", self.name)
    }

    /// Whether this is one of ours on the host.
    pub fn is_own(&self, link: &Link) -> bool {
        link.index == self.index || link.name == self.steer_device()
    }
}

pub struct SpoofNs {
    netns: File,
    sockets: TcpSockets,
    pub device: Device,
    /// For IPv4 steer addresses, which are the veth's if it isn't there.
    steer_device: Option<SteerDevice>,
    /// Networks of the steer addresses.
    pub steer: SteerNets,
    /// Families that work on this host.
    pub families: Families,
    /// The namespace's id, as the host's counts.
    pub id: u32,
}

impl SpoofNs {
    /// Makes the namespace and the device; a device for IPv4 steer addresses too, if it is wanted and
    /// to be had. The caller's thread is, and stays, on the host.
    pub async fn create(chosen: SteerNets, wants_steer_device: bool) -> Result<Self> {
        let host = sys::current_netns().context("opening the host's network namespace")?;
        let (netns, device, sockets) =
            tokio::task::spawn_blocking(move || spoof::create(&host)).await??;
        let steer_device = match wants_steer_device {
            true => SteerDevice::create(&device).await?,
            false => None,
        };
        Self::with(netns, sockets, device, steer_device, chosen).await
    }

    /// The one that a daemon before this one made, with its devices.
    pub async fn adopt(
        netns: OwnedFd,
        steer_device: Option<OwnedFd>,
        chosen: SteerNets,
    ) -> Result<Self> {
        let host = sys::current_netns().context("opening the host's network namespace")?;
        let netns = File::from(netns);
        let inside = netns.try_clone()?;
        let (index, sockets) =
            tokio::task::spawn_blocking(move || spoof::look_into(&host, &inside)).await??;
        let device = host::device(index).await?;
        let steer_device = match steer_device {
            Some(fd) => Some(SteerDevice::adopt(fd, &device).await?),
            None => None,
        };
        Self::with(netns, sockets, device, steer_device, chosen).await
    }

    async fn with(
        netns: File,
        sockets: TcpSockets,
        device: Device,
        steer_device: Option<SteerDevice>,
        chosen: SteerNets,
    ) -> Result<Self> {
        let steer = chosen.or_default(device.number);
        let host::Configured { families, spoof_id } = host::configure(&device).await?;
        Ok(Self {
            netns,
            sockets,
            device,
            steer_device,
            steer,
            families,
            id: spoof_id,
        })
    }

    /// Gives the host as many steer addresses as the targets need.
    pub async fn add_addresses(&self, addresses: &[std::net::IpAddr]) -> Result<()> {
        let v4 = self.steer_device.as_ref();
        let v4 = v4.map_or(self.device.index, |device| device.index);
        host::add_addresses(&self.device, v4, addresses, &mut ())
            .await
            .map(drop)
    }

    /// The same at the veth: without any IPv4 address it takes no packets of clients.
    pub async fn add_to_veth(&self, addresses: &[std::net::IpAddr]) -> Result<()> {
        host::add_addresses(&self.device, self.device.index, addresses, &mut ())
            .await
            .map(drop)
    }

    /// What keeps the devices as they are from here on, with these addresses on them.
    pub fn upkeep(
        &self,
        addresses: tokio::sync::watch::Receiver<Vec<std::net::IpAddr>>,
        last_resort: Box<dyn LastResort>,
    ) -> Upkeep {
        Upkeep {
            device: self.device.clone(),
            steer_device: self.steer_device.as_ref().map(|device| device.index),
            addresses,
            last_resort,
        }
    }

    /// For the keeper to hold.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// The same.
    /// Asks sock_diag of the namespace's connections, wherever it is used.
    pub fn sock_diag(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    pub fn steer_device(&self) -> Option<BorrowedFd<'_>> {
        self.steer_device.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling thread in: its sockets can have any source address.
    pub fn enter(&self) -> Result<()> {
        sys::enter_netns(self.netns.as_fd()).context("entering the spoof namespace")
    }
}

/// A netlink connection in the calling thread's namespace, driven by the current runtime.
pub fn netlink() -> Result<rtnetlink::Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}
