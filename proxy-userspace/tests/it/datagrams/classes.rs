//! DSCP and ECN, as QUIC goes by, stay what they were, by both paths and both ways.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::SockRef;

use super::rows;
use super::site::Plan;
use crate::lab::addr::BALANCER;
use crate::lab::datagram;

rows! {
    they_stay_as_they_are;
}

/// Expedited forwarding with ECT(1), and another one with ECT(0).
const UP: u8 = 0xb9;
const DOWN: u8 = 0x2a;

fn they_stay_as_they_are(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan { framing, ..plan }.serve(datagram::socket)?;
        let balancer = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
        balancer.connect(site.service())?;
        speaks(&balancer, UP)?;
        speaks(&site.app, DOWN)?;
        for length in [100, 3000] {
            balancer.send(&[&site.header(1000)[..], &vec![7; length]].concat())?;
            let heard = class_of_next(&site.app)?;
            ensure!(heard == UP, "{length} bytes up: {heard:#x}");
            site.app.send_to(&vec![7; length], site.client(1000))?;
            let heard = class_of_next(&balancer)?;
            ensure!(heard == DOWN, "{length} bytes down: {heard:#x}");
        }
        site.leaks.saw_none()?;
    }
    Ok(())
}

/// From now on with this class, and tells those that it hears.
fn speaks(socket: &UdpSocket, class: u8) -> Result<()> {
    let set = SockRef::from(socket);
    match socket.local_addr()? {
        SocketAddr::V4(_) => {
            set.set_tos_v4(class.into())?;
            set.set_recv_tos_v4(true)?;
        }
        SocketAddr::V6(_) => {
            set.set_tclass_v6(class.into())?;
            set.set_recv_tclass_v6(true)?;
        }
    }
    Ok(())
}

fn class_of_next(socket: &UdpSocket) -> Result<u8> {
    let mut buffer = [0];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = cmsg_space!(libc::c_int);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let class = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Tos(class) => Some(class),
        ControlMessageOwned::Ipv6TClass(class) => u8::try_from(class).ok(),
        _ => None,
    });
    class.context("a datagram's class")
}
