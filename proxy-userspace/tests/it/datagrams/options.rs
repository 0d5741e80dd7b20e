//! Apps that have the kernel put IPv6 options into their packets, between the headers of IP and UDP. The daemon sends
//! their replies on, without them.

use std::ffi::c_int;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result};

use super::site::Plan;
use crate::lab::addr::{HOST, Pair};
use crate::lab::datagram::{self, Echo, Kind};
use crate::lab::path::Path;

#[test]
fn in_replies_of_all_sizes_direct() -> Result<()> {
    in_replies_of_all_sizes(Path::Direct)
}

#[test]
fn in_replies_of_all_sizes_daemon() -> Result<()> {
    in_replies_of_all_sizes(Path::Daemon)
}

/// Of four bytes that say nothing.
const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

fn in_replies_of_all_sizes(path: Path) -> Result<()> {
    for kinds in [
        &[libc::IPV6_HOPOPTS][..],
        &[libc::IPV6_DSTOPTS],
        &[libc::IPV6_HOPOPTS, libc::IPV6_DSTOPTS],
    ] {
        let app = Plan::new(path, Pair::v6).app_at(HOST);
        let site = app.serve(|host, bind| {
            let socket = datagram::shared(host, bind)?;
            kinds.iter().try_for_each(|kind| put(&socket, *kind))?;
            Echo::by(host, socket, Kind::Unconnected)
        })?;
        let balancer = site.balancer()?;
        for size in [1, 1200, 1450, 4000, 60_000] {
            site.exchange(&balancer, 1000, &vec![7; size])
                .with_context(|| format!("{size} bytes with {kinds:?}"))?;
        }
        site.leaks.saw_none()?;
    }
    Ok(())
}

/// From now on the socket's packets have them.
fn put(socket: &UdpSocket, kind: c_int) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&PADDING))?;
    // SAFETY: the length is that of the value, which lives for the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            kind,
            PADDING.as_ptr().cast(),
            length,
        )
    };
    nix::errno::Errno::result(set).context("putting options into packets")?;
    Ok(())
}
