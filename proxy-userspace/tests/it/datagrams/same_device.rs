//! Applications that answer by the very device, and from the very address, that a datagram has come to, as
//! quic-go's do. Where that is by `lo`, no route leads from there to the client.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{HOST, LOOPBACK, Pair, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::steering::site::nft;

rows! {
    on_loopback;
    on_a_wildcard_address;
    on_a_wildcard_address_by_the_host_s;
}

fn on_loopback(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, LOOPBACK, LOOPBACK)
}

fn on_a_wildcard_address(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, LOOPBACK, WILDCARD)
}

fn on_a_wildcard_address_by_the_host_s(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, HOST, WILDCARD)
}

/// By the balancer's device, and by `lo`, as in front of a firewall.
fn exchanges(plan: Plan<'_>, target: Pair, bind: Pair) -> Result<()> {
    let set_ups: [fn(&Lab) -> Result<()>; 2] = [|_| Ok(()), firewall];
    for &framing in Framing::scaled() {
        for set_up in &set_ups {
            let plan = Plan {
                framing,
                target,
                bind,
                set_up,
                ..plan
            };
            let site = plan.serve(|host, bind| {
                let socket = datagram::socket(host, bind)?;
                match bind {
                    SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
                    SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
                }
                Ok(socket)
            })?;
            let balancer = site.balancer()?;
            balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
            // The second one doesn't fit the way to the balancer in one piece.
            for answer in [b"hello".to_vec(), vec![7; 4000]] {
                let told = heard(&site)?;
                answer_by(&site, &told, &answer)?;
                site.answered(&balancer, 1000, &answer)?;
                balancer.send(&[&site.next_header(1000)[..], b"hello"].concat())?;
            }
            site.end()?;
        }
    }
    Ok(())
}

fn firewall(lab: &Lab) -> Result<()> {
    nft(
        &lab.host,
        "add table inet f
         add chain inet f input { type filter hook input priority 0; }",
    )
}

/// To which address of the host a datagram was sent, and by which device it came.
enum Told {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

fn heard(site: &Site<UdpSocket>) -> Result<Told> {
    let mut words = [0; 16];
    let mut io = [IoSliceMut::new(&mut words)];
    let mut space = nix::cmsg_space!([u8; 64]);
    let flags = MsgFlags::empty();
    let got = recvmsg::<SockaddrStorage>(site.app.as_raw_fd(), &mut io, Some(&mut space), flags)?;
    let told = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Told::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Told::V6(info)),
        _ => None,
    });
    ensure!(got.bytes == 5, "{} bytes", got.bytes);
    told.context("no device told")
}

fn answer_by(site: &Site<UdpSocket>, told: &Told, words: &[u8]) -> Result<()> {
    let (v4, to) = (v4(told), SockaddrStorage::from(site.client(1000)));
    let by = match (told, &v4) {
        (Told::V6(info), _) => ControlMessage::Ipv6PacketInfo(info),
        (Told::V4(_), info) => ControlMessage::Ipv4PacketInfo(info),
    };
    let (app, flags) = (site.app.as_raw_fd(), MsgFlags::empty());
    sendmsg(app, &[IoSlice::new(words)], &[by], flags, Some(&to)).context("the app answers")?;
    Ok(())
}

/// What IPv4 calls the address that was sent to is another field than the one to send from.
const fn v4(told: &Told) -> libc::in_pktinfo {
    let (index, from) = match told {
        Told::V4(info) => (info.ipi_ifindex, info.ipi_addr),
        Told::V6(_) => (0, libc::in_addr { s_addr: 0 }),
    };
    libc::in_pktinfo {
        ipi_ifindex: index,
        ipi_spec_dst: from,
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}
