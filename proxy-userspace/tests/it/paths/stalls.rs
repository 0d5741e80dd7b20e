//! Who doesn't read stops who sends, and nothing on the way takes more than the windows say.

use std::fs;
use std::net::Shutdown;
use std::thread;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::{CLIENT_PORT, MIB, Plan, Site, paths};
use crate::lab::Lab;
use crate::lab::path::Path;
use crate::lab::payload::Payload;
use crate::lab::stall::fill;
use crate::lab::talk::Side;
use crate::steering::site::sysctl;

/// Of the sockets of balancer and app, in bytes: 10 MiB with one sender and one receiver.
const BUFFERS: [(&str, &str); 2] = [
    ("ipv4/tcp_rmem", "4096 131072 6291456"),
    ("ipv4/tcp_wmem", "4096 16384 4194304"),
];
const DIRECT_MOST: usize = 16 * MIB;
/// A daemon in between has another pair, and a pipe.
const DAEMON_MOST: usize = 64 * MIB;
/// The kernel counts for the whole machine, so other tests are in it.
const MEMORY_MOST: usize = 256 * MIB;

paths! {
    an_app_that_stalls;
    a_balancer_that_stalls;
    an_end_behind_a_stall;
    both_stall;
    stalled_from_the_first_byte;
    a_reader_with_a_small_buffer;
}

fn site(plan: Plan<'_>) -> Result<Site> {
    let set_up = |lab: &Lab| {
        BUFFERS.iter().try_for_each(|(key, value)| {
            sysctl(&lab.edge, key, value)?;
            sysctl(&lab.host, key, value)
        })
    };
    Plan {
        set_up: &set_up,
        ..plan
    }
    .start()
}

/// What may be on its way before a sender has to stop.
fn most(site: &Site) -> usize {
    match site.path {
        Path::Direct => DIRECT_MOST,
        Path::Daemon => DAEMON_MOST,
    }
}

fn an_app_that_stalls(plan: Plan<'_>) -> Result<()> {
    stalls(plan, Side::Balancer)
}

fn a_balancer_that_stalls(plan: Plan<'_>) -> Result<()> {
    stalls(plan, Side::App)
}

/// Twice: the second time with all windows grown.
fn stalls(plan: Plan<'_>, sender: Side) -> Result<()> {
    let site = site(plan)?;
    let talk = site.warm(CLIENT_PORT)?;
    let (from, to) = talk.ends(sender);
    let payload = &Payload::new(3);
    let mut sent = 0;
    for _ in 0..2 {
        let before = tcp_memory(&site.lab)?;
        let full = fill(from, payload, sent, most(&site))?;
        let grown = tcp_memory(&site.lab)?.saturating_sub(before);
        ensure!(grown < MEMORY_MOST, "TCP took {grown} bytes of memory");
        thread::scope(|scope| {
            let rest = scope.spawn(move || payload.send_from(&mut &*from, full, full + MIB));
            payload.receive_from(&mut &*to, sent, full + MIB)?;
            rest.join().expect("no panic on the way")
        })?;
        sent = full + MIB;
    }
    Ok(())
}

fn an_end_behind_a_stall(plan: Plan<'_>) -> Result<()> {
    let site = site(plan)?;
    let payload = Payload::new(4);
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let talk = site.warm(port)?;
        let (from, to) = talk.ends(side);
        let sent = fill(from, &payload, 0, most(&site))?;
        from.shutdown(Shutdown::Write)?;
        payload
            .receive(&mut &*to, sent)
            .with_context(|| format!("{side:?} sends"))?;
        // and the other half still works
        payload.send(&mut &*to, 1000)?;
        payload.receive_from(&mut &*from, 0, 1000)?;
    }
    Ok(())
}

fn both_stall(plan: Plan<'_>) -> Result<()> {
    let site = site(plan)?;
    let talk = &site.warm(CLIENT_PORT)?;
    let payload = &Payload::new(5);
    let sent = Side::BOTH.map(|side| -> Result<_> {
        let (from, to) = talk.ends(side);
        Ok((from, to, fill(from, payload, 0, most(&site))?))
    });
    for filled in sent {
        let (from, to, sent) = filled?;
        payload.receive_from(&mut &*to, 0, sent)?;
        from.shutdown(Shutdown::Write)?;
        payload.receive_from(&mut &*to, sent, sent)?;
    }
    Ok(())
}

/// Nobody has read anything but the header.
fn stalled_from_the_first_byte(plan: Plan<'_>) -> Result<()> {
    let site = site(plan)?;
    let payload = &Payload::new(6);
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let talk = site.open(port)?;
        let (from, to) = talk.ends(side);
        let full = fill(from, payload, 0, most(&site))?;
        thread::scope(|scope| {
            let rest = scope.spawn(move || payload.send_from(&mut &*from, full, full + 8 * MIB));
            payload.receive_from(&mut &*to, 0, full + 8 * MIB)?;
            rest.join().expect("no panic on the way")
        })?;
        site.lab.wait_path(&talk, site.path)?;
        talk.transfer(&Side::BOTH, MIB)?;
    }
    Ok(())
}

/// Its window is a few KiB all the time.
fn a_reader_with_a_small_buffer(plan: Plan<'_>) -> Result<()> {
    let site = site(plan)?;
    let talk = site.warm(CLIENT_PORT)?;
    for side in Side::BOTH {
        SockRef::from(talk.ends(side).1).set_recv_buffer_size(16 << 10)?;
    }
    talk.transfer(&Side::BOTH, MIB)
}

/// What all TCP sockets hold, in bytes.
fn tcp_memory(lab: &Lab) -> Result<usize> {
    const PAGE: usize = 4096;
    let text = lab
        .host
        .enter(|| fs::read_to_string("/proc/thread-self/net/sockstat"))?;
    let tcp = text.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.split_once(" mem "));
    let (_, pages) = pages.context("sockstat has TCP's memory")?;
    Ok(pages.trim().parse::<usize>()? * PAGE)
}
