//! QUIC, which sends many datagrams by one call (UDP_SEGMENT), through a balancer that puts each kind of
//! header on: megabytes each way at once, every byte of them right.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::quic_peers::{self, Mtu, Seen, Server};
use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{BALANCER, WILDCARD};
use crate::lab::pki::Pki;
use crate::lab::scale::scaled;
use crate::lab::udp_balancer::UdpBalancer;

rows! {
    on_loopback;
    on_a_wildcard_address_by_long_packets;
}

const CLIENT_PORT: u16 = 4433;
/// Bytes of a packet that no path has been asked about.
const LEAST: u16 = 1200;

fn on_loopback(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, Mtu::Least)
}

/// With the balancer's header they don't fit into one of its packets, and come in pieces.
fn on_a_wildcard_address_by_long_packets(plan: Plan<'_>) -> Result<()> {
    let bind = WILDCARD;
    exchanges(Plan { bind, ..plan }, Mtu::Discovered)
}

/// In each framing.
fn exchanges(plan: Plan<'_>, mtu: Mtu) -> Result<()> {
    let pki = Pki::new()?;
    let length = scaled(2_000_000, 50_000_000);
    for &framing in plan.framings() {
        let plan = Plan { framing, ..plan };
        let site = plan.serve(|netns, at| Server::start(&pki, netns, at, mtu, length))?;
        exchange(&pki, site, mtu, length).with_context(|| format!("by {framing:?}"))?;
    }
    Ok(())
}

fn exchange(pki: &Pki, mut site: Site<Server>, mtu: Mtu, length: usize) -> Result<()> {
    let upstream = [site.of(BALANCER, 0), site.service()];
    let balancer = UdpBalancer::start(&site.lab.edge, site.framing, site.front(), upstream)?;
    let at: [SocketAddr; 2] = [site.client(CLIENT_PORT), site.front()];
    let client = quic_peers::ask(pki, &site.lab.client, at, mtu, length)?;
    let server = site.app.end()?;
    ensure!(
        server.peer == site.client(CLIENT_PORT),
        "the server sees {}",
        server.peer
    );
    for (who, seen) in [("client", &client), ("server", &server)] {
        let Seen {
            datagrams, calls, ..
        } = seen;
        ensure!(
            calls < datagrams,
            "the {who} sent {datagrams} by {calls} calls"
        );
    }
    let longest = client.mtu.max(server.mtu);
    ensure!(
        (longest > LEAST) == (mtu == Mtu::Discovered),
        "packets of {longest} bytes"
    );
    balancer.end()?;
    site.end()
}
