//! What rows do to the host.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::netns::Netns;

/// Sets `/proc/sys/net/…` in `netns`.
pub fn sysctl(netns: &Netns, key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    netns
        .enter(|| fs::write(&path, value))
        .with_context(|| format!("setting {path} to {value}"))
}

/// Runs nft commands, one a line: all of them or none.
pub fn nft(netns: &Netns, commands: &str) -> Result<()> {
    netns.batch("nft", &["-f", "-"], commands)
}

/// Runs `ip` with each of the lines, which may name a family.
pub fn ip(netns: &Netns, lines: &str) -> Result<()> {
    for line in lines.lines().map(str::trim) {
        netns.run(&format!("ip {line}"))?;
    }
    Ok(())
}

/// The host has LATER's networks as its own, by a route alone.
pub fn own_by_a_route(lab: &Lab) -> Result<()> {
    ip(
        &lab.host,
        "-4 route add local 192.0.2.0/24 dev lo
         -6 route add local 2001:db8:2::/64 dev lo",
    )
}

/// Who doesn't listen meanwhile misses some: each is some kilobytes of the 208 that the kernel keeps for him.
pub fn more_changes_than_netlink_keeps(netns: &Netns) -> Result<()> {
    const CHANGES: usize = 1000;
    netns.ip("link add name passing type bridge\nlink set passing up")?;
    netns.ip(&"link set passing alias one\nlink set passing alias two\n".repeat(CHANGES / 2))?;
    netns.ip("link del passing")?;
    let sockets = netns.enter(|| fs::read_to_string("/proc/thread-self/net/netlink"))?;
    let drops = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
    let dropped: u64 = sockets.lines().filter_map(drops).sum();
    ensure!(dropped > 0, "nobody has missed any: {sockets}");
    Ok(())
}

/// A second link between edge and host, `second` on both sides.
pub fn second_uplink(lab: &Lab) -> Result<()> {
    lab.edge.ip(&format!(
        "link add second type veth peer name second netns {}
         link set second up addrgenmode none
         address add fe80::1/64 dev second nodad
         address add 192.0.2.1/24 dev second
         address add 2001:db8:2::1/64 dev second nodad",
        lab.host.path().display()
    ))?;
    lab.host.ip("link set second up addrgenmode none
         address add fe80::2/64 dev second nodad
         address add 192.0.2.2/24 dev second
         address add 2001:db8:2::2/64 dev second nodad")
}
