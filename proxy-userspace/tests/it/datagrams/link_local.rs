//! Balancers whose address means something on one link alone. It is the same on another one.

use std::net::{SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;

use super::clients::ended;
use super::site::{Plan, Site};
use crate::lab::addr::{Pair, TRUEPEER_PORT, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::lab::header;
use crate::lab::path::Path;
use crate::steering::site::second_uplink;

#[test]
fn direct() -> Result<()> {
    all(Plan::new(Path::Direct, Pair::v6))
}

#[test]
fn daemon() -> Result<()> {
    all(Plan::new(Path::Daemon, Pair::v6))
}

fn all(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan {
            framing,
            listen: WILDCARD,
            args: &["--allow", "fe80::1"],
            set_up: &second_uplink,
            ..plan
        }
        .start()?;
        for (port, device) in (1000..).zip(["host", "second"]) {
            exchanges(&site, &balancer(&site, device)?, port)?;
        }
        cannot_take_what_is_behind_another_link(&site)?;
        speaks_for_its_own_clients(&site)?;
        // Its own name says as little to the application as a client's.
        if framing != Framing::Spp {
            let local = header::v2_raw(0x20, 0, &[]);
            balancer(&site, "second")?.send(&[&local[..], b"hello"].concat())?;
            ended(&site, "client_link_local", 1)?;
        }
        site.app.saw_nobody()?;
        site.end()?;
    }
    Ok(())
}

fn balancer(site: &Site, device: &str) -> Result<UdpSocket> {
    balancer_at(site, device, 0)
}

fn balancer_at(site: &Site, device: &str, port: u16) -> Result<UdpSocket> {
    let link = site.lab.edge.enter(|| if_nametoindex(device))?;
    let at = |address: &str, port| -> Result<SocketAddr> {
        Ok(SocketAddrV6::new(address.parse()?, port, 0, link).into())
    };
    let socket = datagram::socket(&site.lab.edge, at("fe80::1", port)?)?;
    socket.connect(at("fe80::2", TRUEPEER_PORT)?)?;
    Ok(socket)
}

/// In one piece and in several, there and back.
fn exchanges(site: &Site, balancer: &UdpSocket, port: u16) -> Result<()> {
    let header = site.next_header(port);
    site.exchange(balancer, port, b"hello")?;
    site.exchange_with(balancer, &header, port, &[7; 1300])?;
    site.exchange_with(balancer, &header, port, &[7; 4000])?;
    site.exchange_with(balancer, &header, port, b"again")?;
    let shown = site.lab.shown("connections")?.to_string();
    let told = "[fe80::1%";
    ensure!(shown.contains(told), "no link of the balancer's: {shown}");
    Ok(())
}

/// Who has the same address there is somebody else.
fn cannot_take_what_is_behind_another_link(site: &Site) -> Result<()> {
    const PORT: u16 = 1002;
    let (first, other) = (balancer(site, "host")?, balancer(site, "second")?);
    site.exchange(&first, PORT, b"hello")?;
    for size in [5, 4000] {
        other.send(&[&site.header(PORT)[..], &vec![8; size]].concat())?;
        let header = site.next_header(PORT);
        site.exchange_with(&first, &header, PORT, &vec![7; size])?;
    }
    Ok(())
}

/// Also by the port that the other one of its address uses.
fn speaks_for_its_own_clients(site: &Site) -> Result<()> {
    let first = balancer(site, "host")?;
    let other = balancer_at(site, "second", first.local_addr()?.port())?;
    for (balancer, port) in [(&first, 1003), (&other, 1004)] {
        site.exchange(balancer, port, b"hello")?;
    }
    for (balancer, port) in [(&first, 1003), (&other, 1004)] {
        site.exchange_with(balancer, &site.next_header(port), port, &[7; 4000])?;
    }
    Ok(())
}
