//! Paths that have room for smaller packets than the host's own link, known from the start or not.

use std::fs;
use std::io::Read;

use anyhow::{Context, Result, ensure};

use super::counted::frames;
use super::{CLIENT_PORT, MIB, Plan, Site, only, paths};
use crate::lab::addr::NEIGHBOUR;
use crate::lab::forge::Segment;
use crate::lab::talk::{Side, Talk};
use crate::lab::{Lab, counters, raw};

paths! {
    smaller_at_the_balancer;
    smaller_on_the_path;
    shrinks_on_the_path;
    shrinks_at_the_balancer;
}

only! {
    direct:
    who_is_no_neighbour_yet_is_told_an_mss;
}

/// Only the balancer's own device says so: the segments that it asks for are smaller than those
/// that the host would send.
fn smaller_at_the_balancer(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        set_up: &|lab| lab.edge.ip("link set host mtu 1280"),
        ..plan
    }
    .start()?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 8 * MIB)
}

/// The app's end doesn't know before the router says so. A veth drops what is larger than it takes
/// without a word, so the balancer has nothing to send until its own end is as narrow.
pub fn narrow(lab: &Lab) -> Result<()> {
    lab.edge
        .ip("link set client mtu 1280")
        .context("narrowing the path")
}

fn smaller_on_the_path(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        set_up: &narrow,
        ..plan.far()
    }
    .start()?;
    site.warm(CLIENT_PORT)?.transfer(&[Side::App], 8 * MIB)?;
    router_had_to_say_so(&site.lab, plan.is_v4())
}

/// A connection whose path has just become narrow.
fn shrunk(plan: Plan<'_>) -> Result<(Site, Talk)> {
    let site = plan.far().start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(4, 20_000)?;
    narrow(&site.lab)?;
    Ok((site, talk))
}

fn shrinks_on_the_path(plan: Plan<'_>) -> Result<()> {
    let (site, talk) = shrunk(plan)?;
    talk.transfer(&[Side::App], 8 * MIB)?;
    router_had_to_say_so(&site.lab, plan.is_v4())
}

fn shrinks_at_the_balancer(plan: Plan<'_>) -> Result<()> {
    let (site, talk) = shrunk(plan)?;
    site.lab.client.ip("link set edge mtu 1280")?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}

/// Otherwise nobody has sent anything too large, and the test shows nothing.
pub fn router_had_to_say_so(lab: &Lab, is_v4: bool) -> Result<()> {
    let said = if is_v4 {
        counters::of(&lab.edge, "Icmp", "OutDestUnreachs")?
    } else {
        let path = "/proc/thread-self/net/snmp6";
        let text = lab.edge.enter(|| fs::read_to_string(path))?;
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("Icmp6OutPktTooBigs"));
        line.context("a counter")?.trim().parse()?
    };
    ensure!(said > 0, "the router had nothing to say");
    Ok(())
}

/// The kernel tells no MTU of a way whose next hop it doesn't know.
fn who_is_no_neighbour_yet_is_told_an_mss(plan: Plan<'_>) -> Result<()> {
    const LEAST: u16 = 1220;
    let from = (plan.family)(NEIGHBOUR, CLIENT_PORT);
    let allow = &[&*from.ip().to_string()];
    let site = Plan { allow, ..plan }.start()?;
    let mut wire = raw::tap_ingress(&site.lab.edge)?;
    let syn = Segment {
        from,
        ..frames::syn(&site, CLIENT_PORT)
    };
    frames::send(&site, syn)?;
    let mut packet = vec![0; 2048];
    let mss = loop {
        let len = wire.read(&mut packet)?;
        let answer = Segment::parse(&packet[..len]).filter(|answer| answer.to == from);
        if let Some([2, 4, high, low, ..]) = answer.map(|answer| answer.options) {
            break u16::from_be_bytes([*high, *low]);
        }
    };
    ensure!(mss >= LEAST, "an MSS of {mss}");
    Ok(())
}
