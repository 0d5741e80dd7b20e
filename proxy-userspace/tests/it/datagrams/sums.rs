//! Datagrams that were damaged on their way.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{BALANCER, WILDCARD};
use crate::lab::{Lab, counters, poll, raw};

rows! {
    a_wrong_sum_stays_wrong;
}

/// The stack drops it, whichever way it has gone, and the app never hears it.
fn a_wrong_sum_stays_wrong(plan: Plan<'_>) -> Result<()> {
    for bind in [plan.bind, WILDCARD] {
        let site = Plan { bind, ..plan }.start()?;
        let wire = raw::sender(&site.lab.edge, "host")?;
        let mut frame = frame(&site)?;
        *frame.last_mut().context("a payload")? ^= 1;
        wire.send(&frame).context("sending a frame")?;
        poll::until("the stack to drop it", || {
            Ok((wrong_sums(&site.lab, site.service())? == 1).then_some(()))
        })?;
        site.app.saw_nobody()?;
        site.exchange(&site.balancer()?, 1001, b"hello")?;
        site.end()?;
    }
    Ok(())
}

/// A right one, as the balancer would send it.
fn frame(site: &Site) -> Result<Vec<u8>> {
    const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const PORT: u16 = 4000;
    let (from, to) = (site.of(BALANCER, PORT), site.service());
    let words = [&site.header(1000)[..], b"hello"].concat();
    let ethernet = PacketBuilder::ethernet2(SENDER, site.lab.host.mac("edge")?);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("of one family"),
    };
    let mut frame = Vec::new();
    ip.udp(PORT, to.port()).write(&mut frame, &words)?;
    Ok(frame)
}

/// How many datagrams of this family the host has dropped for their sums.
fn wrong_sums(lab: &Lab, family: SocketAddr) -> Result<u64> {
    if family.is_ipv4() {
        return counters::of(&lab.host, "Udp", "InCsumErrors");
    }
    let path = "/proc/thread-self/net/snmp6";
    let text = lab.host.enter(|| fs::read_to_string(path))?;
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
    Ok(count.context("a counter")?.trim().parse()?)
}
