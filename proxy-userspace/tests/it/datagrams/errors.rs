//! Errors of ICMP that are about nobody's flow: they stay what they are, and go no other way for truepeer.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv6};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{BALANCER, HOST};
use crate::lab::{datagram, raw};

rows! {
    the_host_s_own;
    a_router_s;
}

const MANY: usize = 50;
/// Where nobody listens.
const CLOSED_PORT: u16 = 9999;

/// Who has sent to a port of the host's where nobody is hears so, be he a balancer.
fn the_host_s_own(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let other = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    other.connect(site.of(HOST, CLOSED_PORT))?;
    other.send(b"hello")?;
    let heard = other.recv(&mut []).map_err(|error| error.kind());
    ensure!(heard == Err(ErrorKind::ConnectionRefused), "{heard:?}");
    are_nobody_s(&site)?;
    site.exchange(&balancer, 1000, b"again")?;
    site.end()
}

/// Of flows that are not there, and of one that is: nobody outside can say what has become of that.
fn a_router_s(plan: Plan<'_>) -> Result<()> {
    let site = plan.app_at(HOST).start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let wire = raw::sender(&site.lab.edge, "host")?;
    let balancers = balancer.local_addr()?;
    for about in [site.client(1000), site.client(1001), balancers] {
        for from in [site.service(), site.of(HOST, CLOSED_PORT)] {
            let frame = unreachable(&site, from, about)?;
            for _ in 0..MANY {
                wire.send(&frame).context("sending a frame")?;
            }
        }
    }
    are_nobody_s(&site)?;
    ensure!(balancer.take_error()?.is_none(), "the balancer hears of it");
    site.exchange(&balancer, 1000, b"again")?;
    site.end()
}

fn are_nobody_s(site: &Site) -> Result<()> {
    let count = site.lab.shown("status")?["kernel"]["datagram_icmp"].take();
    ensure!(count == 0, "{count} errors are taken for a flow's");
    Ok(())
}

/// The balancer's word that it has lost what the host has sent from there to there.
fn unreachable(site: &Site, from: SocketAddr, to: SocketAddr) -> Result<Vec<u8>> {
    const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let (mut lost, mut frame) = (Vec::new(), Vec::new());
    let ethernet = PacketBuilder::ethernet2(SENDER, site.lab.host.mac("edge")?);
    match (from.ip(), to.ip(), site.of(BALANCER, 0).ip()) {
        (IpAddr::V4(a), IpAddr::V4(b), IpAddr::V4(router)) => {
            let quoted = PacketBuilder::ipv4(a.octets(), b.octets(), 64);
            quoted
                .udp(from.port(), to.port())
                .write(&mut lost, b"hello")?;
            let host = DestUnreachableHeader::Port;
            let error = ethernet.ipv4(router.octets(), a.octets(), 64);
            let error = error.icmpv4(Icmpv4Type::DestinationUnreachable(host));
            error.write(&mut frame, &lost)?;
        }
        (IpAddr::V6(a), IpAddr::V6(b), IpAddr::V6(router)) => {
            let quoted = PacketBuilder::ipv6(a.octets(), b.octets(), 64);
            quoted
                .udp(from.port(), to.port())
                .write(&mut lost, b"hello")?;
            let port = icmpv6::DestUnreachableCode::Port;
            let error = ethernet.ipv6(router.octets(), a.octets(), 64);
            let error = error.icmpv6(Icmpv6Type::DestinationUnreachable(port));
            error.write(&mut frame, &lost)?;
        }
        _ => unreachable!("of one family"),
    }
    Ok(frame)
}
