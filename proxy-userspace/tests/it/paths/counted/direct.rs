//! What the programs do with direct connections.

use std::io::Write;

use anyhow::{Context, Result};
use proxy_common::VETH_MAC;

use super::Times::{AtLeast, Once};
use super::{Counting, Row, Site, by_daemon, frames, opens, talks};
use crate::lab::forge::{ACK, SYN, Segment};
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::stream::{expect, reset};
use crate::lab::talk::{Side, Talk};
use crate::steering::site::nft;

pub const ROWS: &[Row<Site>] = &[
    Row("direct_syn", Once, opens),
    Row("direct_handshake", Once, opens),
    Row("direct_opened", Once, opens),
    Row("direct_up", AtLeast(16), talks),
    Row("direct_down", AtLeast(16), talks),
    Row("direct_silent", Once, resets_before_its_header),
    Row("direct_icmp", Once, is_told_by_a_router),
    Row("direct_failed", Once, ends_before_its_header_does),
    Row("direct_ahead", AtLeast(1), loses_its_header),
    Row("direct_again", AtLeast(1), finds_a_full_queue),
    Row("direct_early", AtLeast(1), goes_on_behind_a_full_queue),
    Row("deliver_taken", Once, is_met_by_a_relayed_one),
    Row("app_down", AtLeast(1), finds_nobody),
];

fn resets_before_its_header(site: &Site, _: u16) -> Result<()> {
    Ok(reset(site.connect(0)?)?)
}

fn is_told_by_a_router(site: &Site, port: u16) -> Result<()> {
    let mut talk = site.open(port)?;
    frames::send_unreachable(site, talk.balancer.local_addr()?.port())?;
    talk.ping_pong(1, 100)
}

fn ends_before_its_header_does(site: &Site, port: u16) -> Result<()> {
    let segment = Segment {
        flags: ACK,
        ..frames::segment(site, port)
    };
    frames::send_too_short(site, segment)
}

/// On the way, so that what is behind it comes first.
fn loses_its_header(site: &Site, port: u16) -> Result<()> {
    /// TCP's header with timestamps.
    const TCP: usize = 32;
    let header = site.header(Version::V2, port);
    let ip = if site.service().is_ipv4() { 20 } else { 40 };
    let length = ip + TCP + header.len();
    nft(
        &site.lab.edge,
        &format!(
            "add table inet lossy
             add chain inet lossy forward {{ type filter hook forward priority 0 ; }}
             add rule inet lossy forward tcp dport 7000 meta length {length} drop"
        ),
    )?;
    let counting = Counting::start(&site.lab, "direct_ahead")?;
    let mut balancer = site.connect(0)?;
    balancer.write_all(&header)?;
    balancer.write_all(b"words")?;
    counting.wait(AtLeast(1))?;
    nft(&site.lab.edge, "delete table inet lossy")?;
    let mut talk = Talk::accept(balancer, &site.app, site.client(port))?;
    expect(&mut talk.app, b"words")
}

fn finds_a_full_queue(site: &Site, port: u16) -> Result<()> {
    behind_a_full_queue(site, port, "direct_again")
}

fn goes_on_behind_a_full_queue(site: &Site, port: u16) -> Result<()> {
    behind_a_full_queue(site, port, "direct_early")
}

/// The second connection waits for room in the app's queue, and says more meanwhile.
fn behind_a_full_queue(site: &Site, port: u16, counter: &'static str) -> Result<()> {
    site.app.limit(0)?;
    let counting = Counting::start(&site.lab, counter)?;
    let first = site.begin(port, b"first")?;
    let mut second = site.begin(port + 1, b"words")?;
    second.write_all(b" and more")?;
    counting.wait(AtLeast(1))?;
    let mut first = Talk::accept(first, &site.app, site.client(port)).context("the first one")?;
    expect(&mut first.app, b"first")?;
    let mut second = Talk::accept(second, &site.app, site.client(port + 1))?;
    expect(&mut second.app, b"words and more")?;
    site.app.resume()?;
    second.close(Side::Balancer)
}

/// From the same port of the client's.
fn is_met_by_a_relayed_one(site: &Site, port: u16) -> Result<()> {
    let mut talk = site.open(port)?;
    let syn = Segment {
        flags: SYN,
        ..Segment::between(site.client(port), talk.app.local_addr()?)
    };
    by_daemon::send(site, &syn.frame([VETH_MAC; 2]))?;
    talk.ping_pong(1, 100)
}

fn finds_nobody(site: &Site, _: u16) -> Result<()> {
    site.app.stop()?;
    poll::until("a refusal", || Ok(site.connect(0).err().map(drop)))?;
    site.app.resume()
}
