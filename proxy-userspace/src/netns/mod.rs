//! The spoof namespace: a network namespace that only the daemon and its keeper hold, in which every address is
//! local, joined to the host by one veth pair. All of it by netlink; all of it gone with the process.

mod host;
mod lookup;
mod routes;
mod sockets;
mod spoof;
mod steer;
mod watch;

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result};

pub use lookup::{NextHop, Way, answers, way_to};
pub use sockets::{SocketState, TcpSocket, TcpSockets};
pub use steer::{Families, SteerNet, SteerNets};
pub use watch::{Addresses, Host, Link, LinkEvent, watch};

use crate::sys;

/// The host's end of the veth pair.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub index: u32,
    /// Tells instances on one host apart: their devices and their default steer addresses.
    pub number: u8,
}

pub struct SpoofNs {
    netns: File,
    pub device: Device,
    /// Networks of the steer addresses.
    pub steer: SteerNets,
    /// Families that work on this host.
    pub families: Families,
    /// The namespace's id, as the host's counts.
    pub id: u32,
}

impl SpoofNs {
    /// Makes the namespace and the device. The caller's thread is, and stays, on the host.
    pub async fn create(chosen: SteerNets) -> Result<Self> {
        let host = sys::current_netns().context("opening the host's network namespace")?;
        let (netns, device) = tokio::task::spawn_blocking(move || spoof::create(&host)).await??;
        Self::with(netns, device, chosen).await
    }

    /// The one that a daemon before this one made, with its device.
    pub async fn adopt(netns: OwnedFd, chosen: SteerNets) -> Result<Self> {
        let host = sys::current_netns().context("opening the host's network namespace")?;
        let netns = File::from(netns);
        let inside = netns.try_clone()?;
        let index =
            tokio::task::spawn_blocking(move || spoof::outside_of(&host, &inside)).await??;
        let device = host::device(index).await?;
        Self::with(netns, device, chosen).await
    }

    async fn with(netns: File, device: Device, chosen: SteerNets) -> Result<Self> {
        let steer = chosen.or_default(device.number);
        let host::Configured { families, spoof_id } = host::configure(&device).await?;
        Ok(Self {
            netns,
            device,
            steer,
            families,
            id: spoof_id,
        })
    }

    /// Gives the host's end as many steer addresses as the targets need.
    pub async fn add_addresses(&self, addresses: &[std::net::IpAddr]) -> Result<()> {
        host::add_addresses(&self.device, addresses).await
    }

    /// For the keeper to hold.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
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
