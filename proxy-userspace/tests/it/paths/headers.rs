//! Headers of every size and in every piece: whoever reads them, nothing of what follows is lost.

use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

use super::counted::{Counting, Times};
use super::site::{Plan, Site};
use super::{CLIENT_PORT, MIB, only, paths};
use crate::lab::addr::{FRONT, FRONT_PORT, TRUEPEER_PORT};
use crate::lab::flows;
use crate::lab::header::{Version, v2};
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::stream::{expect, has_closed};
use crate::lab::talk::{Side, Talk};
use crate::lab::wire::Wire;

/// The longest that the kernel has to read.
const IN_KERNEL: usize = 128;

paths! {
    with_the_first_words;
    in_a_segment_of_its_own;
    before_an_app_that_speaks_first;
    of_every_size;
    with_a_checksum;
    with_a_wrong_checksum;
}

only! {
    direct:
    in_time_for_an_app_that_is_late;
}

only! {
    falls_back:
    in_two_segments;
    in_two_segments_minutes_apart;
}

/// It comes again until the application's queue has room, which takes longer than a header may.
fn in_time_for_an_app_that_is_late(plan: Plan<'_>) -> Result<()> {
    let args = &["--header-timeout", "1s"];
    let site = Plan { args, ..plan }.start()?;
    site.app.limit(0)?;
    let again = Counting::start(&site.lab, "direct_again")?;
    let waiting = [CLIENT_PORT, CLIENT_PORT + 1].map(|port| site.begin(port, b"words"));
    // TCP doubles the time from one to the next: this is the one after three seconds.
    again.wait(Times::AtLeast(4))?;
    for (port, balancer) in (CLIENT_PORT..).zip(waiting) {
        let mut talk = Talk::accept(balancer?, &site.app, site.client(port))?;
        expect(&mut talk.app, b"words")?;
        talk.round_trip()?;
    }
    Ok(())
}

/// Both versions, in one segment with data.
fn with_the_first_words(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, version) in (CLIENT_PORT..).zip(Version::BOTH) {
        begins(&site, port, &site.header(version, port)).with_context(|| format!("{version:?}"))?;
    }
    Ok(())
}

/// The header and some words in one segment, an answer, and more.
fn begins(site: &Site, port: u16, header: &[u8]) -> Result<()> {
    const WORDS: &[u8] = b"the client's first words";
    let mut balancer = site.connect(0)?;
    balancer.write_all(&[header, WORDS].concat())?;
    let mut talk = Talk::accept(balancer, &site.app, site.client(port))?;
    expect(&mut talk.app, WORDS)?;
    talk.warm_up(&site.lab, site.path)?;
    talk.close(Side::Balancer)
}

fn in_a_segment_of_its_own(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, version) in (CLIENT_PORT..).zip(Version::BOTH) {
        let balancer = after_one_segment(&site, &site.header(version, port))?;
        (&balancer).write_all(b"words")?;
        let mut talk = Talk::accept(balancer, &site.app, site.client(port))?;
        expect(&mut talk.app, b"words")?;
        talk.warm_up(&site.lab, site.path)?;
        talk.transfer(&Side::BOTH, MIB)?;
    }
    Ok(())
}

/// Connects and writes `bytes`, which are on the wire as a segment of their own when this returns.
pub fn after_one_segment(site: &Site, bytes: &[u8]) -> Result<TcpStream> {
    let mut wire = Wire::tap(site.balancers_netns(), TRUEPEER_PORT)?;
    let mut balancer = site.connect(0)?;
    balancer.write_all(bytes)?;
    poll::until("the segment", || {
        let sent = wire.connections()?.first().context("a connection")?;
        Ok((sent.segments == [bytes]).then_some(()))
    })?;
    Ok(balancer)
}

/// An app such as sshd, and a client that waits for it.
fn before_an_app_that_speaks_first(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, version) in (CLIENT_PORT..).zip(Version::BOTH) {
        let mut balancer = site.connect(0)?;
        balancer.write_all(&site.header(version, port))?;
        let mut talk = Talk::accept(balancer, &site.app, site.client(port))?;
        talk.app.write_all(b"220 ready\r\n")?;
        expect(&mut talk.balancer, b"220 ready\r\n")?;
        talk.warm_up(&site.lab, site.path)?;
        talk.close(Side::App)?;
    }
    Ok(())
}

/// Odd and even ones, as a TLV of padding makes them; the bytes of what follows move by as many.
fn of_every_size(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut shortest = usize::MAX;
    let mut longest = 0;
    for (port, padding) in (CLIENT_PORT..).zip(0..=76_u8) {
        let noop = [&[4, 0, padding][..], &vec![0; padding.into()]].concat();
        let front = site.of(FRONT, FRONT_PORT);
        let header = v2(0x21, site.client(port), front, &noop);
        (shortest, longest) = (shortest.min(header.len()), longest.max(header.len()));
        if header.len() <= IN_KERNEL || site.path == Path::Daemon {
            begins(&site, port, &header).with_context(|| format!("{} bytes", header.len()))?;
        }
    }
    ensure!(shortest < 60 && longest > 100, "{shortest} to {longest}");
    Ok(())
}

/// One with the checksum that `change` makes of the right one.
fn with_checksum(site: &Site, change: fn(u32) -> u32) -> Vec<u8> {
    let (client, front) = (site.client(CLIENT_PORT), site.of(FRONT, FRONT_PORT));
    let header = |sum: [u8; 4]| v2(0x21, client, front, &[&[3, 0, 4][..], &sum].concat());
    let right = crc32c::crc32c(&header([0; 4]));
    header(change(right).to_be_bytes())
}

fn with_a_checksum(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    begins(&site, CLIENT_PORT, &with_checksum(&site, |right| right))
}

fn with_a_wrong_checksum(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut balancer = site.connect(0)?;
    let header = with_checksum(&site, |right| right ^ 1);
    balancer.write_all(&[&header[..], b"words"].concat())?;
    ensure!(has_closed(&mut balancer), "it was taken");
    site.truepeer.wait_line("crc_mismatch")?;
    site.app.saw_nobody()
}

/// As long as a header may take, whatever the programs have forgotten by then.
fn in_two_segments_minutes_apart(plan: Plan<'_>) -> Result<()> {
    let args = &["--header-timeout", "5m"];
    let site = Plan { args, ..plan }.start()?;
    let header = site.header(Version::V2, CLIENT_PORT);
    let (first, rest) = header.split_at(9);
    let balancer = after_one_segment(&site, first)?;
    poll::until("the daemon to have it", || {
        let counts = site.lab.counts()?;
        Ok((counts["accepted"] == 1).then_some(()))
    })?;
    flows::forget_given(&site.truepeer)?;
    (&balancer).write_all(rest)?;
    let mut talk = Talk::accept(balancer, &site.app, site.client(CLIENT_PORT))?;
    talk.warm_up(&site.lab, site.path)
}

/// Cut in several places, the first part long before the second.
fn in_two_segments(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, version) in (CLIENT_PORT..).step_by(8).zip(Version::BOTH) {
        for (port, cut) in (port..).zip([1, 5, 12, 15, 16, 27]) {
            let header = site.header(version, port);
            let (first, rest) = header.split_at(cut);
            let balancer = after_one_segment(&site, first)?;
            (&balancer).write_all(&[rest, b"words"].concat())?;
            let mut talk = Talk::accept(balancer, &site.app, site.client(port))
                .with_context(|| format!("{version:?} cut after {cut} bytes"))?;
            expect(&mut talk.app, b"words")?;
            talk.warm_up(&site.lab, site.path)?;
        }
    }
    Ok(())
}
