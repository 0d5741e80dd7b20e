//! A device for the IPv4 steer addresses that goes at once when the processes die.
//!
//! The veth goes some 50 ms later, in the background. By then the programs are gone, and what the
//! applications send from a steer address would be on its way to the real clients. IPv6 sockets go on
//! sending also from an address that is gone, so theirs stay on the veth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
};

use super::{Device, netlink, spoof::index_of};
use crate::sys;

pub struct SteerDevice {
    /// The device goes with its last duplicate, which has to be higher than those of all links.
    fd: OwnedFd,
    pub index: u32,
}

impl SteerDevice {
    /// Beside `veth`. None where there is no /dev/net/tun.
    pub async fn create(veth: &Device) -> Result<Option<Self>> {
        let name = veth.steer_device();
        let fd = match sys::tun::tun(&name) {
            Ok(fd) => fd,
            Err(error) => {
                tracing::info!(
                    "no TUN device ({error}): if this process and its keeper are killed at once, an \
                     application may send a packet to a real client"
                );
                return Ok(None);
            }
        };
        let netlink = netlink()?;
        let index = index_of(&netlink, &name).await?;
        set_up(&netlink, index).await?;
        Ok(Some(Self { fd, index }))
    }

    /// The one that a daemon before this one made.
    pub async fn adopt(fd: OwnedFd, veth: &Device) -> Result<Self> {
        let index = index_of(&netlink()?, &veth.steer_device()).await?;
        Ok(Self { fd, index })
    }
}

impl AsFd for SteerDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

async fn set_up(netlink: &Handle, index: u32) -> Result<()> {
    // It is for IPv4, and shall send nothing of its own. Refused where there is no IPv6.
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let mode = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
    let link = LinkUnspec::new_with_index(index).append_extra_attribute(mode);
    let _ = netlink.link().set(link.build()).execute().await;
    let up = LinkUnspec::new_with_index(index).up().build();
    let up = netlink.link().set(up).execute().await;
    up.context("setting the TUN device up")
}
