//! Wherever the app is, and however it has its sockets.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{APP_PORT, BALANCER, HOST, LATER, LOOPBACK, WILDCARD};
use crate::lab::datagram::{self, Echo, Kind};
use crate::lab::netns::Netns;
use crate::lab::poll;
use crate::steering::site::own_by_a_route;

rows! {
    on_loopback;
    on_a_wildcard_address;
    on_the_host_s_address;
    on_a_wildcard_address_by_the_host_s;
    on_a_wildcard_address_by_one_of_a_route_alone;
    with_a_socket_for_each_client;
    with_a_socket_for_each_client_by_loopback;
    with_a_socket_for_each_client_by_one_of_a_route_alone;
    a_socket_of_somebody_else;
    with_sockets_that_share_a_port;
}

/// In each framing.
fn exchanges(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan { framing, ..plan }.start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        // The second one of v2-first has no header.
        let header = site.next_header(1000);
        site.exchange_with(&balancer, &header, 1000, b"hello again")?;
        site.end()?;
    }
    Ok(())
}

pub fn on_loopback(plan: Plan<'_>) -> Result<()> {
    exchanges(plan)
}

fn on_a_wildcard_address(plan: Plan<'_>) -> Result<()> {
    let bind = WILDCARD;
    exchanges(Plan { bind, ..plan })
}

fn on_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    exchanges(plan.app_at(HOST))
}

pub fn on_a_wildcard_address_by_the_host_s(plan: Plan<'_>) -> Result<()> {
    let (target, bind) = (HOST, WILDCARD);
    exchanges(Plan {
        target,
        bind,
        ..plan
    })
}

/// As where a whole network is one host's.
fn on_a_wildcard_address_by_one_of_a_route_alone(plan: Plan<'_>) -> Result<()> {
    exchanges(Plan {
        target: LATER,
        bind: WILDCARD,
        set_up: &own_by_a_route,
        ..plan
    })
}

pub fn with_a_socket_for_each_client(plan: Plan<'_>) -> Result<()> {
    let (target, bind) = (HOST, WILDCARD);
    connected(Plan {
        target,
        bind,
        ..plan
    })?;
    // From 127.0.0.1 the kernel connects nobody to a client.
    match (plan.clients)(LOOPBACK, 0) {
        SocketAddr::V4(_) => Ok(()),
        SocketAddr::V6(_) => connected(plan),
    }
}

/// The kernel picks another address than what clients are sent to.
fn with_a_socket_for_each_client_by_loopback(plan: Plan<'_>) -> Result<()> {
    let bind = WILDCARD;
    connected(Plan { bind, ..plan })
}

fn with_a_socket_for_each_client_by_one_of_a_route_alone(plan: Plan<'_>) -> Result<()> {
    connected(Plan {
        target: LATER,
        bind: WILDCARD,
        set_up: &own_by_a_route,
        ..plan
    })
}

fn connected(plan: Plan<'_>) -> Result<()> {
    let kind = Kind::Connected;
    let plan = Plan { kind, ..plan };
    for &framing in plan.framings() {
        let site = Plan { framing, ..plan }.start()?;
        // All stay open, lest one gets the port of another.
        let balancers = [site.balancer()?, site.balancer()?, site.balancer()?];
        let each = [&b"hello"[..], b"hello again", &[7; 4000]];
        for ((port, balancer), words) in (1000..).zip(&balancers).zip(each) {
            site.exchange(balancer, port, words)?;
        }
        site.end()?;
    }
    Ok(())
}

/// One that has the app's port at another address, and a peer of its own.
fn a_socket_of_somebody_else(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let peer = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    let other = datagram::socket(&site.lab.host, site.of(HOST, APP_PORT))?;
    other.connect(peer.local_addr()?)?;
    peer.connect(other.local_addr()?)?;
    for words in [&b"hello"[..], &[7; 4000]] {
        other.send(words)?;
        let mut heard = [0; 4001];
        let length = peer.recv(&mut heard).context("the peer hears it")?;
        ensure!(heard[..length] == *words, "{length} bytes");
    }
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.end()
}

/// Each client stays with one of them (SO_REUSEPORT), and with the other once that has closed. No program can
/// assign a datagram to such a socket before Linux 6.6.
fn with_sockets_that_share_a_port(plan: Plan<'_>) -> Result<()> {
    // All with one of two would be a coin's 31 in a row.
    const CLIENTS: Range<u16> = 1000..1032;
    for (target, bind) in [(LOOPBACK, LOOPBACK), (LOOPBACK, WILDCARD), (HOST, HOST)] {
        let plan = Plan {
            target,
            bind,
            ..plan
        };
        let mut site = plan.serve(|host, bind| {
            let both = [(); 2].iter().map(|()| Echo::one_of_several(host, bind));
            both.collect::<Result<Vec<_>>>()
        })?;
        let mut clients = Vec::new();
        for port in CLIENTS {
            let balancer = site.balancer()?;
            let by = answered_by(&site, &balancer, port)?;
            clients.push((port, balancer, by));
        }
        let of_one = clients.iter().filter(|(_, _, by)| *by == 0).count();
        ensure!((1..clients.len()).contains(&of_one), "one has {of_one}");
        for (port, balancer, before) in &clients {
            let by = answered_by(&site, balancer, *port)?;
            ensure!(by == *before, "{port} came to {before}, and then to {by}");
        }
        site.app.pop();
        wait_alone(&site.lab.host)?;
        for (port, balancer, _) in &clients {
            answered_by(&site, balancer, *port)
                .with_context(|| format!("{port}, to who is left"))?;
        }
        site.end()?;
    }
    Ok(())
}

/// Until one socket is left at the app's port: another process may have been made meanwhile, and still have a copy.
fn wait_alone(host: &Netns) -> Result<()> {
    poll::until("one socket of the app to be left", || {
        let bound = host.run(&format!("ss -nuaH sport = :{APP_PORT}"))?;
        Ok((bound.lines().count() == 1).then_some(()))
    })
}

/// Which of the sockets has answered this client.
fn answered_by(site: &Site<Vec<Echo>>, balancer: &UdpSocket, port: u16) -> Result<usize> {
    balancer.send(&[&site.header(port)[..], b"hello"].concat())?;
    site.answered(balancer, port, b"hello")?;
    let told = site.app.iter().map(Echo::next_now).enumerate();
    let told: Vec<_> = told.filter_map(|(by, told)| Some((by, told?.0))).collect();
    let [(by, client)] = told[..] else {
        bail!("heard: {told:?}");
    };
    ensure!(client == site.client(port), "the app sees {client}");
    Ok(by)
}
