//! What a namespace's own protocols have counted.

use std::fs;

use anyhow::{Context, Result};

use super::netns::Netns;

/// A number of the "Tcp" lines of snmp, of both families.
pub fn tcp(netns: &Netns, name: &str) -> Result<u64> {
    of(netns, "Tcp", name)
}

/// A number of any of its protocols: `Tcp`, `Icmp`, ….
pub fn of(netns: &Netns, protocol: &str, name: &str) -> Result<u64> {
    let text = netns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
    // two lines: names, and the numbers below them
    let start = format!("{protocol}: ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&start));
    let (names, numbers) = (lines.next(), lines.next());
    let (names, numbers) = (names.context("names")?, numbers.context("numbers")?);
    let mut both = names.split(' ').zip(numbers.split(' '));
    let found = both.find(|(found, _)| *found == name);
    Ok(found.with_context(|| format!("no {name}"))?.1.parse()?)
}

/// Datagrams that came to a port without a socket, of both families.
pub fn udp_to_nobody(netns: &Netns) -> Result<u64> {
    let v6 = netns.enter(|| fs::read_to_string("/proc/thread-self/net/snmp6"))?;
    let fields = v6.lines().filter_map(|line| line.split_once(' '));
    let found = fields.into_iter().find(|(name, _)| *name == "Udp6NoPorts");
    let (_, v6) = found.context("no Udp6NoPorts")?;
    Ok(of(netns, "Udp", "NoPorts")? + v6.trim().parse::<u64>()?)
}
