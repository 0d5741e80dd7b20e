//! Links and paths of all widths, and those that get narrow meanwhile.

use std::io::ErrorKind;
use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::FAR;
use crate::lab::datagram;
use crate::lab::path::Path;
use crate::lab::payload::Payload;
use crate::lab::poll::{self, PATIENCE};
use crate::paths::mtu::{narrow, router_had_to_say_so};

rows! {
    bulk_at_1280;
    bulk_at_1500;
    bulk_at_9000;
    as_large_as_the_kernel_resizes;
    shrinks_meanwhile;
    shrinks_on_the_path;
}

/// What IPv6 has on each link.
const LEAST: usize = 1280;

fn bulk_at_1280(plan: Plan<'_>) -> Result<()> {
    bulk_at(LEAST, plan)
}

fn bulk_at_1500(plan: Plan<'_>) -> Result<()> {
    bulk_at(1500, plan)
}

fn bulk_at_9000(plan: Plan<'_>) -> Result<()> {
    bulk_at(9000, plan)
}

fn bulk_at(mtu: usize, plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let set_up = |lab: &Lab| set_mtu(lab, mtu);
        let site = Plan {
            framing,
            set_up: &set_up,
            ..plan
        }
        .start()?;
        in_bulk(&site, &site.balancer()?, 1000, mtu).with_context(|| format!("{framing:?}"))?;
        site.end()?;
    }
    Ok(())
}

/// The kernel resizes no packet to more than some 16,000 bytes, and no more are moved.
fn as_large_as_the_kernel_resizes(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let set_up = |lab: &Lab| set_mtu(lab, 20_000);
        let site = Plan {
            framing,
            set_up: &set_up,
            ..plan
        }
        .start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        let header = site.next_header(1000);
        for size in [
            15_800, 15_899, 15_900, 15_901, 15_950, 16_000, 16_100, 16_384, 16_385,
        ] {
            site.exchange_with(&balancer, &header, 1000, &words(size, 1))
                .with_context(|| format!("{size} bytes by {framing:?}"))?;
        }
        let kernel = site.lab.shown("status")?["kernel"].take();
        ensure!(kernel["datagram_failed"] == 0, "{kernel:#}");
        site.end()?;
    }
    Ok(())
}

/// Of both ends of the uplink.
fn set_mtu(lab: &Lab, mtu: usize) -> Result<()> {
    lab.edge.ip(&format!("link set host mtu {mtu}"))?;
    lab.host.ip(&format!("link set edge mtu {mtu}"))
}

fn shrinks_meanwhile(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan { framing, ..plan }.start()?;
        let (old, new) = (site.balancer()?, site.balancer()?);
        in_bulk(&site, &old, 1000, 1500)?;
        set_mtu(&site.lab, LEAST)?;
        // Now it takes two packets.
        for size in [LEAST, 1300, 1400] {
            let words = words(size, 0);
            let header = site.next_header(1000);
            site.exchange_with(&old, &header, 1000, &words)
                .with_context(|| format!("{size} bytes by {framing:?}"))?;
        }
        in_bulk(&site, &new, 1001, LEAST).with_context(|| format!("{framing:?}"))?;
        site.end()?;
    }
    Ok(())
}

/// Several at once each way, and all as long as a packet has room for, or one byte longer or shorter.
fn in_bulk(site: &Site, balancer: &UdpSocket, port: u16, mtu: usize) -> Result<()> {
    const ROUNDS: usize = 32;
    const AT_ONCE: usize = 4;
    let ip = if site.service().is_ipv4() { 28 } else { 48 };
    site.exchange(balancer, port, b"hello")?;
    let header = site.next_header(port);
    let reply = site.framing.reply_header(site.client(port), site.front());
    let room = [header.len(), reply.len()].map(|header| mtu - ip - header);
    for round in 0..ROUNDS {
        let sent = (0..AT_ONCE).map(|at| {
            words(
                room[round % 2] + round % 3 - 1,
                2 * (round * AT_ONCE + at) + 1,
            )
        });
        let sent: Vec<_> = sent.collect();
        for words in &sent {
            balancer.send(&[&header[..], words].concat())?;
        }
        for (at, words) in sent.iter().enumerate() {
            let (client, got) = site.app.next()?;
            ensure!(client == site.client(port), "the app sees {client}");
            let which = || sent.iter().position(|words| *words == got);
            ensure!(
                got == *words,
                "round {round}: of {AT_ONCE}, {:?} came as {at}",
                which()
            );
            site.answered(balancer, port, words)?;
        }
        if round == 0 && site.path == Path::Direct {
            // However the card's driver lays packets out in memory.
            let kernel = site.lab.shown("status")?["kernel"].take();
            let up = kernel["datagram_up"].as_u64();
            ensure!(up > Some(AT_ONCE as u64), "not by the kernel: {kernel:#}");
        }
    }
    Ok(())
}

fn words(size: usize, seed: usize) -> Vec<u8> {
    let payload = Payload::short(seed.try_into().expect("a small number"));
    let mut words = Vec::new();
    while words.len() < size {
        words.extend_from_slice(payload.piece(words.len(), size - words.len()));
    }
    words
}

/// To a balancer that is one router away. What the host sends gets lost until the router has said so; from then on it
/// comes in pieces.
fn shrinks_on_the_path(plan: Plan<'_>) -> Result<()> {
    const LENGTH: usize = 1400;
    for &framing in plan.framings() {
        let allow = &[FAR];
        let site = Plan {
            framing,
            allow,
            ..plan
        }
        .start()?;
        let balancer = datagram::socket(&site.lab.client, site.of(FAR, 0))?;
        balancer.connect(site.service())?;
        site.exchange(&balancer, 1000, b"hello")?;
        goes_its_path(&site, &balancer, &words(LENGTH, 0))?;
        narrow(&site.lab)?;
        poll::until("the host to know of the narrow path", || {
            site.app.say(site.client(1000), &words(LENGTH, 1))?;
            Ok(comes(&balancer)?.then_some(()))
        })
        .with_context(|| format!("{framing:?}"))?;
        let is_ipv4 = site.service().is_ipv4();
        // In IPv4, routers make the pieces of what the daemon sends.
        if site.path == Path::Direct || !is_ipv4 {
            router_had_to_say_so(&site.lab, is_ipv4)?;
        }
        let first = with_header(&site, &words(LENGTH, 1));
        for round in 2..12 {
            let words = words(LENGTH, round);
            site.app.say(site.client(1000), &words)?;
            // More than one of the first may have got through, late.
            let mut heard = first.clone();
            while heard == first {
                (heard, _) = datagram::receive(&balancer)?;
            }
            ensure!(heard == with_header(&site, &words), "another one");
        }
        // Now its own end says so as well.
        site.lab.client.ip("link set edge mtu 1280")?;
        let header = site.next_header(1000);
        site.exchange_with(&balancer, &header, 1000, &words(LENGTH, 12))?;
        // What is short enough takes no other path for it.
        goes_its_path(&site, &balancer, b"short")?;
        site.end()?;
    }
    Ok(())
}

/// As the balancer gets it.
fn with_header(site: &Site, words: &[u8]) -> Vec<u8> {
    let header = site.framing.reply_header(site.client(1000), site.front());
    [&header, words].concat()
}

/// Answers to this, as soon as nothing is to be seen any more of what has taken another path before.
fn goes_its_path(site: &Site, balancer: &UdpSocket, words: &[u8]) -> Result<()> {
    let down = || -> Result<_> {
        let kernel = site.lab.shown("status")?["kernel"].take();
        Ok(kernel["datagram_down"].as_u64())
    };
    let before = down()?;
    poll::until("answers to go their path", || {
        site.exchange_with(balancer, &site.next_header(1000), 1000, words)?;
        Ok((site.path == Path::Daemon || down()? > before).then_some(()))
    })
}

/// Whether one comes soon.
fn comes(balancer: &UdpSocket) -> Result<bool> {
    balancer.set_read_timeout(Some(datagram::TICK))?;
    let heard = balancer.recv(&mut []).map_err(|error| error.kind());
    balancer.set_read_timeout(Some(PATIENCE))?;
    match heard {
        Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        heard => {
            ensure!(heard.is_ok(), "{heard:?}");
            Ok(true)
        }
    }
}
