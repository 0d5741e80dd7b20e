//! Datagrams that were damaged on their way, and those that come with the sum of all their bytes.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{BALANCER, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::lab::lossy::Nature;
use crate::lab::netns::Netns;
use crate::lab::payload::Payload;
use crate::lab::tuntap::Layer;
use crate::lab::{counters, poll, raw};
use crate::paths::sums::{CHANGED, MESSAGE, tunnel_with_changes};
use crate::steering::site::nft;

rows! {
    a_wrong_sum_stays_wrong;
    summed_by_a_tunnel;
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
            Ok((wrong_sums(&site.lab.host, site.service())? == 1).then_some(()))
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

/// As `paths::sums` has it (CHECKSUM_COMPLETE), in each framing: headers of all lengths are cut off, and behind the
/// first one of v2-first nothing is.
pub fn summed_by_a_tunnel(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan {
            framing,
            set_up: &tunnel_with_changes,
            wire: Some(Nature::sound(Layer::Tap)),
            ..plan
        }
        .start()?;
        if framing == Framing::V2First {
            believed(&site)?;
        }
        nft(&site.lab.host, "delete table bridge behind")?;
        let headers = match framing {
            Framing::Spp => 1,
            _ => HEADERS,
        };
        (0..headers)
            .try_for_each(|value| behind(&site, value))
            .with_context(|| format!("{framing:?}"))?;
        for netns in [&site.lab.edge, &site.lab.host] {
            for family in [site.service(), site.client(0)] {
                let wrong = wrong_sums(netns, family)?;
                ensure!(wrong == 0, "{wrong} datagrams with a wrong checksum");
            }
        }
        site.end()?;
    }
    Ok(())
}

/// A byte is another one, and comes all the same: nobody has looked at it, as the sum of all is still believed.
fn believed(site: &Site) -> Result<()> {
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"first words")?;
    for _ in 0..16 {
        balancer.send(&MESSAGE)?;
        let (client, mut got) = site.app.next()?;
        ensure!(client == site.client(1000), "the app sees {client}");
        site.answered(&balancer, 1000, &got)?;
        let changed = got.iter_mut().find(|byte| **byte == CHANGED);
        *changed.context("the bridge has changed nothing")? = MESSAGE[0];
        ensure!(got == MESSAGE, "more has changed: {got:?}");
    }
    Ok(())
}

/// Of as many lengths.
const HEADERS: u16 = 6;

/// Behind a header with a TLV of so many bytes, or without one.
fn behind(site: &Site, value: u16) -> Result<()> {
    let port = 1100 + value;
    let mut header = site.header(port);
    if value > 0 {
        let mut tlv = vec![0xe1, 0, u8::try_from(value)?];
        tlv.resize(3 + usize::from(value), 7);
        header = datagram::v2(site.client(port), site.front(), &tlv);
    }
    let next = match site.framing {
        Framing::V2First => Vec::new(),
        _ => header.clone(),
    };
    let balancer = site.balancer()?;
    site.exchange_with(&balancer, &header, port, b"hello")?;
    for size in [0, 1, 2, 3, 511, 512, 1199, 1200, 1201] {
        let words = Payload::short(size.try_into()?).piece(0, size).to_vec();
        site.exchange_with(&balancer, &next, port, &words)
            .with_context(|| format!("{size} bytes behind {}", header.len()))?;
    }
    Ok(())
}

/// How many datagrams of this family a host has dropped for their sums.
fn wrong_sums(netns: &Netns, family: SocketAddr) -> Result<u64> {
    if family.is_ipv4() {
        return counters::of(netns, "Udp", "InCsumErrors");
    }
    let path = "/proc/thread-self/net/snmp6";
    let text = netns.enter(|| fs::read_to_string(path))?;
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
    Ok(count.context("a counter")?.trim().parse()?)
}
