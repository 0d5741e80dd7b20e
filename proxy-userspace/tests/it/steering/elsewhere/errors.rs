//! What a container says of datagrams, in ICMP: for the balancer, or for nobody.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Site, behind, bridge, freely_and_masqueraded};
use crate::datagrams::errors;
use crate::lab::addr::{APP_PORT, CLIENT, HOST, TRUEPEER_PORT, WILDCARD};
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::forge::{checksum, sum};
use crate::lab::leaks::Leaks;
use crate::lab::poll;
use crate::steering::{CLIENT_PORT, datagrams};

#[test]
fn about_a_client_who_is_over_v4() -> Result<()> {
    about_one_who_is_over(CLIENT.v4(CLIENT_PORT))
}

#[test]
fn about_a_client_who_is_over_v6() -> Result<()> {
    about_one_who_is_over(CLIENT.v6(CLIENT_PORT))
}

/// First the balancer hears of it, and then nobody. Where others than balancers' clients are refused, nobody hears of
/// one who has never been there either.
fn about_one_who_is_over(client: SocketAddr) -> Result<()> {
    let site = Site::new(bridge, freely_and_masqueraded)?;
    let bind = WILDCARD.like(client, APP_PORT);
    let app = Echo::listen(&site.container, bind, Kind::Unconnected)?;
    for (outsiders, clients) in [("app", &[0][..]), ("refuse", &[0, 1])] {
        let leaks = Leaks::watch(&site.lab.edge)?;
        let args = ["--outsiders", outsiders, "--close-after", "1s"];
        let truepeer = site.truepeer().args(Framing::V2.args()).args(args);
        let _truepeer = truepeer.start()?;
        let balancer = datagrams::balancer(&site.lab, HOST.like(client, TRUEPEER_PORT))?;
        datagrams::asks(&balancer, &app, client, b"hello")?;
        let before = lost(&site)?;
        poll::until("a word that isn't for the balancer to be dropped", || {
            says(&site, client, Error::Other)?;
            Ok((lost(&site)? > before).then_some(()))
        })?;
        for more in clients {
            let about = SocketAddr::new(client.ip(), client.port() + more);
            let before = lost(&site)?;
            poll::until("an error to be dropped", || {
                says(&site, about, Error::PortUnreachable)?;
                Ok((lost(&site)? > before).then_some(()))
            })
            .with_context(|| format!("about {about}, with {outsiders}"))?;
        }
        leaks.saw_none()?;
    }
    Ok(())
}

fn lost(site: &Site) -> Result<u64> {
    let count = site.lab.shown("status")?["kernel"]["datagram_icmp_lost"].as_u64();
    count.context("a count")
}

#[test]
fn too_big_for_what_is_behind_it_v4() -> Result<()> {
    too_big(CLIENT.v4(CLIENT_PORT))
}

#[test]
fn too_big_for_what_is_behind_it_v6() -> Result<()> {
    too_big(CLIENT.v6(CLIENT_PORT))
}

/// The balancer hears what fits, in his own version of IP.
fn too_big(client: SocketAddr) -> Result<()> {
    const TAKES: u16 = 1400;
    const LONGER: u32 = 20;
    let site = Site::new(bridge, freely_and_masqueraded)?;
    let bind = WILDCARD.like(client, APP_PORT);
    let app = Echo::listen(&site.container, bind, Kind::Unconnected)?;
    let leaks = Leaks::watch(&site.lab.edge)?;
    let truepeer = site.truepeer().args(Framing::V2.args());
    let _truepeer = truepeer.start()?;
    for service in HOST.both(TRUEPEER_PORT) {
        let balancer = datagrams::balancer(&site.lab, service)?;
        let port = client.port() + u16::from(service.is_ipv6());
        let client = SocketAddr::new(client.ip(), port);
        datagrams::asks(&balancer, &app, client, b"hello")?;
        says(&site, client, Error::TooBig(TAKES))?;
        let fits = match (service.is_ipv4(), client.is_ipv4()) {
            (true, false) => u32::from(TAKES) - LONGER,
            (false, true) => u32::from(TAKES) + LONGER,
            _ => TAKES.into(),
        };
        poll::until("the balancer to hear what fits", || {
            let known = match service {
                SocketAddr::V4(_) => ip_mtu(&balancer)?,
                SocketAddr::V6(_) => ipv6_mtu(&balancer)?,
            };
            ensure!(known == 1500 || known == fits, "{known} by {service}");
            Ok((known == fits).then_some(()))
        })?;
    }
    leaks.saw_none()
}

#[derive(Clone, Copy)]
enum Error {
    PortUnreachable,
    /// A redirect, or of IPv6 a word on the headers.
    Other,
    /// For a link that takes so much.
    TooBig(u16),
}

/// The container of its app's, about the client's datagram.
fn says(site: &Site, client: SocketAddr, error: Error) -> Result<()> {
    let is_v4 = client.is_ipv4();
    let ([kind, code], takes) = match (error, is_v4) {
        (Error::PortUnreachable, true) => ([3, 3], 0),
        (Error::PortUnreachable, false) => ([1, 4], 0),
        (Error::Other, true) => ([5, 1], 0),
        (Error::Other, false) => ([4, 0], 0),
        (Error::TooBig(takes), true) => ([3, 4], takes),
        (Error::TooBig(takes), false) => ([2, 0], takes),
    };
    let [high, low] = takes.to_be_bytes();
    let quoted = errors::lost(client, behind(client), 63)?;
    let mut icmp = [&[kind, code, 0, 0, 0, 0, high, low], &quoted[..]].concat();
    let protocol = match is_v4 {
        true => Protocol::ICMPV4,
        // The kernel makes its checksum.
        false => Protocol::ICMPV6,
    };
    if is_v4 {
        let check = checksum(sum(&icmp));
        icmp[2..4].copy_from_slice(&check);
    }
    let domain = Domain::for_address(client);
    let open = || Socket::new(domain, Type::RAW, Some(protocol));
    let socket = site.container.enter(open)?;
    socket.send_to(&icmp, &SocketAddr::new(client.ip(), 0).into())?;
    Ok(())
}
