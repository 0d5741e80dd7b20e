//! First datagrams that take a longer way to their application, where they alone have a header. What their clients send
//! meanwhile isn't one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Result, ensure};

use super::pieces::{FIRST, UDP, be16, by, datagram, octets, piece};
use super::site::{Plan, Site};
use super::{families, rows};
use crate::lab::datagram::{self as socket, Framing};
use crate::lab::header::SIGNATURE;
use crate::lab::{Lab, poll};

rows! {
    before_the_last_piece;
}

mod behind_one_that_the_daemon_has_not_got {
    super::families!(behind_one_that_the_daemon_has_not_got direct Direct);
}

mod before_several_are_taken_apart {
    super::families!(before_several_are_taken_apart direct Direct);
}

fn before_the_last_piece(plan: Plan<'_>) -> Result<()> {
    const RIGHT: [u8; 2000] = [7; 2000];
    let (site, balancer) = start(plan)?;
    let datagram = datagram(&site, balancer.local_addr()?, &RIGHT);
    let (first, last) = datagram.split_at(FIRST);
    let ends = ends(&site, &balancer)?;
    send(&site, &piece(ends, 1, 0, first))?;
    // Nor has what can't be read another one count.
    balancer.send(&[&SIGNATURE[..], b"and what is no header"].concat())?;
    is_payload(&site, &balancer, 1001)?;
    is_payload(&site, &balancer, 1002)?;
    send(&site, &piece(ends, 1, FIRST, last))?;
    site.app_got(1000, &RIGHT)?;
    site.answered(&balancer, 1000, &RIGHT)?;
    is_payload(&site, &balancer, 1001)?;
    site.leaks.saw_none()
}

/// Its options leave it to the daemon, before which its checksum has it dropped.
fn behind_one_that_the_daemon_has_not_got(plan: Plan<'_>) -> Result<()> {
    let (site, balancer) = start(plan)?;
    let mut datagram = datagram(&site, balancer.local_addr()?, b"hello");
    datagram[6] ^= 1;
    send(&site, &with_options(ends(&site, &balancer)?, &datagram))?;
    is_payload(&site, &balancer, 1001)?;
    is_payload(&site, &balancer, 1002)?;
    site.leaks.saw_none()
}

/// `lo`, which they come back by, loses them.
fn before_several_are_taken_apart(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        lab.host
            .run("tc qdisc add dev lo root pfifo limit 0")
            .map(drop)
    };
    let set_up = &set_up;
    let (site, balancer) = start(Plan { set_up, ..plan })?;
    let header = site.header(1000);
    let part = header.len() + 100;
    socket::segment(&balancer, u16::try_from(part)?)?;
    balancer.send(&[&header[..], &vec![7; 3 * part]].concat())?;
    poll::until("lo to lose the datagrams", || {
        let shown = site.lab.host.run("tc -s qdisc show dev lo")?;
        Ok((!shown.contains("dropped 0,")).then_some(()))
    })?;
    let kernel = site.lab.shown("status")?["kernel"].take();
    ensure!(kernel["datagram_segmented"] == 1, "{kernel:#}");
    is_payload(&site, &balancer, 1001)?;
    is_payload(&site, &balancer, 1002)?;
    site.leaks.saw_none()
}

fn start(plan: Plan<'_>) -> Result<(Site, UdpSocket)> {
    let framing = Framing::V2First;
    let site = Plan { framing, ..plan }.start()?;
    let balancer = site.balancer()?;
    Ok((site, balancer))
}

/// What client 1000 sends looks like a header of somebody else.
fn is_payload(site: &Site, balancer: &UdpSocket, of: u16) -> Result<()> {
    let forged = [&site.header(of)[..], b"hello"].concat();
    site.exchange_with(balancer, &[], 1000, &forged)
}

fn ends(site: &Site, balancer: &UdpSocket) -> Result<[IpAddr; 2]> {
    Ok([balancer.local_addr()?.ip(), site.service().ip()])
}

fn send(site: &Site, packet: &[u8]) -> Result<()> {
    let to = SocketAddr::new(site.service().ip(), 0);
    by(site, "host")?.send_to(packet, &to.into())?;
    Ok(())
}

/// Which say nothing.
fn with_options([from, to]: [IpAddr; 2], bytes: &[u8]) -> Vec<u8> {
    const V4: [u8; 4] = [1, 1, 1, 0];
    const V6: [u8; 8] = [UDP, 0, 1, 4, 0, 0, 0, 0];
    const DESTINATION_OPTIONS: u8 = 60;
    let (head, behind) = match from {
        IpAddr::V4(_) => {
            let [high, low] = be16(20 + V4.len() + bytes.len());
            let head = vec![0x46, 0, high, low, 0, 1, 0, 0, 64, UDP, 0, 0];
            (head, &V4[..])
        }
        IpAddr::V6(_) => {
            let [high, low] = be16(V6.len() + bytes.len());
            let head = vec![0x60, 0, 0, 0, high, low, DESTINATION_OPTIONS, 64];
            (head, &V6[..])
        }
    };
    [&head[..], &octets(from), &octets(to), behind, bytes].concat()
}
