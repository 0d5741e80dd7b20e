//! Being told that something of the host has changed, whatever it was.

use std::{io, time::Duration};

use netlink_packet_xfrm::constants::XFRMNLGRP_POLICY;
use rtnetlink::{
    MulticastGroup,
    sys::{
        Socket,
        protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
    },
};
use tokio::{io::unix::AsyncFd, time::sleep};

use crate::sys;

/// Rings when something has changed. What it was is not told: whoever hears it reads all of that
/// kind again, so nothing is lost when the kernel couldn't tell all.
pub struct Bell(Option<AsyncFd<Socket>>);

impl Bell {
    /// For devices, addresses, routes and rules of routing.
    pub fn of_routing() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        Self::new(NETLINK_ROUTE, &groups.map(|group| group as u32))
    }

    /// Never rings on a kernel without nftables.
    pub fn of_nftables() -> io::Result<Self> {
        const NFNLGRP_NFTABLES: u32 = 7;
        Self::where_supported(NETLINK_NETFILTER, NFNLGRP_NFTABLES)
    }

    /// Never rings on a kernel without IPsec.
    pub fn of_ipsec() -> io::Result<Self> {
        Self::where_supported(NETLINK_XFRM, XFRMNLGRP_POLICY)
    }

    fn where_supported(protocol: isize, group: u32) -> io::Result<Self> {
        match Self::new(protocol, &[group]) {
            Err(error) if is_unsupported(&error) => Ok(Self(None)),
            other => other,
        }
    }

    fn new(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self(Some(sys::readable(socket)?)))
    }

    /// Waits until it has rung, once or more. One that is broken rings by the clock.
    pub async fn rung(&self) {
        const PERIOD: Duration = Duration::from_millis(250);
        match &self.0 {
            None => std::future::pending().await,
            Some(socket) => {
                if let Err(error) = drain(socket).await {
                    tracing::debug!("netlink tells of no changes any more: {error}");
                    sleep(PERIOD).await;
                }
            }
        }
    }
}

/// Waits for messages and throws them away.
async fn drain(socket: &AsyncFd<Socket>) -> io::Result<()> {
    let mut ready = socket.readable().await?;
    // What doesn't fit is cut off: nobody reads it.
    let mut buffer = [0_u8; 64];
    loop {
        match ready.try_io(|socket| socket.get_ref().recv(&mut &mut buffer[..], 0)) {
            Ok(Ok(_)) => {}
            // There were too many to tell, so there were some.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => return Ok(()),
        }
    }
}

pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL)
    )
}
