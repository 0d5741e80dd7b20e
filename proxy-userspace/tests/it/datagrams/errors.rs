//! Errors of ICMP that are about nobody's flow: they stay what they are, and go no other way for truepeer.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use nix::libc::IPPROTO_RAW;
use socket2::{Domain, Protocol, Socket, Type};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{APP_PORT, BALANCER, HOST, NEIGHBOUR, STEER};
use crate::lab::{Lab, datagram, poll, raw};
use crate::steering::site::sysctl;

rows! {
    the_host_s_own;
    a_router_s;
    one_that_the_host_forwards;
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
            let frame = unreachable(&site, [from, about], from.ip())?;
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

/// Of what a client himself has sent: he, too, can have it forwarded to anybody behind the host, or back.
fn one_that_the_host_forwards(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        sysctl(&lab.host, "ipv4/ip_forward", "1")?;
        sysctl(&lab.host, "ipv6/conf/all/forwarding", "1")
    };
    let set_up = &set_up;
    let site = Plan { set_up, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let wire = raw::sender(&site.lab.edge, "host")?;
    let sent = [site.client(1000), site.of(STEER, APP_PORT)];
    let frame = unreachable(&site, sent, site.of(BALANCER, 0).ip())?;
    wire.send(&frame).context("sending a frame")?;
    poll::until("it to be dropped", || {
        let count = site.lab.shown("status")?["kernel"]["datagram_icmp_lost"].take();
        Ok((count == 1).then_some(()))
    })?;
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

/// A router's word, for this address, that it has lost what was sent from there to there.
fn unreachable(site: &Site, [from, to]: [SocketAddr; 2], told: IpAddr) -> Result<Vec<u8>> {
    const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let (lost, mut frame) = (lost(from, to, 64)?, Vec::new());
    let ethernet = PacketBuilder::ethernet2(SENDER, site.lab.host.mac("edge")?);
    let router = site.of(NEIGHBOUR, 0).ip();
    match (router, told) {
        (IpAddr::V4(router), IpAddr::V4(told)) => {
            let host = DestUnreachableHeader::Port;
            let error = ethernet.ipv4(router.octets(), told.octets(), 64);
            let error = error.icmpv4(Icmpv4Type::DestinationUnreachable(host));
            error.write(&mut frame, &lost)?;
        }
        (IpAddr::V6(router), IpAddr::V6(told)) => {
            let port = icmpv6::DestUnreachableCode::Port;
            let error = ethernet.ipv6(router.octets(), told.octets(), 64);
            let error = error.icmpv6(Icmpv6Type::DestinationUnreachable(port));
            error.write(&mut frame, &lost)?;
        }
        _ => unreachable!("of one family"),
    }
    Ok(frame)
}

/// The host itself says that the time of a client's datagram for the app at its address has run out.
pub fn runs_out(site: &Site, port: u16) -> Result<()> {
    site.exchange(&site.balancer()?, port, b"hello")?;
    let (client, app) = (site.client(port), site.of(HOST, APP_PORT));
    let (lost, mut packet) = (lost(client, app, 1)?, Vec::new());
    match (client.ip(), app.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let code = icmpv4::TimeExceededCode::TtlExceededInTransit;
            let error = PacketBuilder::ipv4(to.octets(), from.octets(), 64);
            let error = error.icmpv4(Icmpv4Type::TimeExceeded(code));
            error.write(&mut packet, &lost)?;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let code = icmpv6::TimeExceededCode::HopLimitExceeded;
            let error = PacketBuilder::ipv6(to.octets(), from.octets(), 64);
            let error = error.icmpv6(Icmpv6Type::TimeExceeded(code));
            error.write(&mut packet, &lost)?;
        }
        _ => unreachable!("of one family"),
    }
    let (domain, protocol) = (Domain::for_address(client), Protocol::from(IPPROTO_RAW));
    let open = || Socket::new(domain, Type::RAW, Some(protocol));
    let socket = site.lab.host.enter(open)?;
    socket.send_to(&packet, &SocketAddr::new(client.ip(), 0).into())?;
    Ok(())
}

/// What such an error quotes: a datagram with so many hops to go.
pub fn lost(from: SocketAddr, to: SocketAddr, hops: u8) -> Result<Vec<u8>> {
    let mut lost = Vec::new();
    let packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), hops),
        _ => unreachable!("of one family"),
    };
    let packet = packet.udp(from.port(), to.port());
    packet.write(&mut lost, b"hello")?;
    Ok(lost)
}
