//! Paths that have room for smaller packets than the host's own link, known from the start or not.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::Lab;
use crate::lab::addr::BALANCER;
use crate::lab::talk::{Side, Talk};

families! {
    smaller_at_the_balancer;
    smaller_on_the_path;
    shrinks_on_the_path;
    shrinks_at_the_balancer;
}

/// Only the balancer's own device says so: the segments that it asks for are smaller than those
/// of the app's leg.
fn smaller_at_the_balancer(family: Family) -> Result<()> {
    let mut plan = Plan::new(family);
    plan.set_up = &|lab| lab.edge.ip("link set host mtu 1280");
    let site = plan.start()?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 8 * MIB)
}

/// The app's end doesn't know before the router says so. A veth drops what is larger than it takes
/// without a word, so the balancer has nothing to send until its own end is as narrow.
fn narrow(lab: &Lab) -> Result<()> {
    lab.edge
        .ip("link set client mtu 1280")
        .context("narrowing the path")
}

fn smaller_on_the_path(family: Family) -> Result<()> {
    let mut plan = Plan::far(family);
    plan.set_up = &narrow;
    let site = plan.start()?;
    site.warm(CLIENT_PORT)?.transfer(&[Side::App], 8 * MIB)?;
    router_had_to_say_so(&site.lab, family)
}

/// A connection whose path has just become narrow.
fn shrunk(family: Family) -> Result<(Site, Talk)> {
    let site = Plan::far(family).start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(4, 20_000)?;
    narrow(&site.lab)?;
    Ok((site, talk))
}

fn shrinks_on_the_path(family: Family) -> Result<()> {
    let (site, talk) = shrunk(family)?;
    talk.transfer(&[Side::App], 8 * MIB)?;
    router_had_to_say_so(&site.lab, family)
}

fn shrinks_at_the_balancer(family: Family) -> Result<()> {
    let (site, talk) = shrunk(family)?;
    site.lab.client.ip("link set edge mtu 1280")?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}

/// Otherwise nobody has sent anything too large, and the test shows nothing.
fn router_had_to_say_so(lab: &Lab, family: Family) -> Result<()> {
    let said = if family(BALANCER, 0).is_ipv4() {
        // two lines: names, and the numbers below them
        let text = read(lab, "snmp")?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
        let (names, numbers) = (lines.next(), lines.next());
        let (names, numbers) = (names.context("names")?, numbers.context("numbers")?);
        let mut both = names.split(' ').zip(numbers.split(' '));
        both.find(|(name, _)| *name == "OutDestUnreachs")
            .map(|(_, number)| number.to_owned())
    } else {
        let text = read(lab, "snmp6")?;
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix("Icmp6OutPktTooBigs"))
            .map(|number| number.trim().to_owned())
    };
    let said: u64 = said.context("a counter")?.parse()?;
    ensure!(said > 0, "the router had nothing to say");
    Ok(())
}

fn read(lab: &Lab, table: &str) -> Result<String> {
    let path = format!("/proc/thread-self/net/{table}");
    Ok(lab.edge.enter(|| fs::read_to_string(path))?)
}
