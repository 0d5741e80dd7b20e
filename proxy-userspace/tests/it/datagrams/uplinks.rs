//! Uplinks that come while the daemon runs, and go again: answers leave by them first, as the routes to clients
//! do, and get back to the balancer from there.

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{Pair, TRUEPEER_PORT};
use crate::lab::{datagram, poll};
use crate::steering::devices::{bridge_uplink, through_192_0_2_1};
use crate::steering::site::{ip, more_changes_than_netlink_keeps, second_uplink};

/// At the two ends of a second uplink.
const BEHIND_IT: Pair = Pair::new([192, 0, 2, 1], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 1]);
const IN_FRONT_OF_IT: Pair = Pair::new([192, 0, 2, 2], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 2]);

rows! {
    one_that_comes_and_goes;
    one_behind_more_changes_than_netlink_keeps;
    one_that_is_moved_in_and_renamed;
    one_beside_a_bridge;
}

fn one_that_comes_and_goes(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"before")?;
    for round in 1..3 {
        second_uplink(&site.lab)?;
        wait_for_programs(&site, "second")?;
        through_192_0_2_1(&site.lab.host)?;
        site.exchange(&balancer, 1000, b"through the new uplink")?;
        site.exchange(&balancer, 1000 + round, b"somebody else")?;
        ip(
            &site.lab.host,
            "link del second
             -4 route replace default via 198.51.100.1
             -6 route replace default via 2001:db8:e::1",
        )?;
        site.exchange(&balancer, 1000, b"through the old uplink")?;
    }
    site.end()
}

/// The daemon is asleep while so much changes that the kernel doesn't keep all of it for it.
fn one_behind_more_changes_than_netlink_keeps(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    site.truepeer.signal(Signal::STOP)?;
    more_changes_than_netlink_keeps(&site.lab.host)?;
    second_uplink(&site.lab)?;
    site.truepeer.signal(Signal::CONT)?;
    wait_for_programs(&site, "second")?;
    through_192_0_2_1(&site.lab.host)?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

/// A balancer is behind it, besides.
fn one_that_is_moved_in_and_renamed(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        args: &["--listen", "0.0.0.0:7001", "--listen", "[::]:7001"],
        allow: &[BEHIND_IT],
        ..plan
    }
    .start()?;
    second_uplink(&site.lab)?;
    let (host, client) = (&site.lab.host, &site.lab.client);
    host.ip(&format!(
        "link set second netns {}",
        client.path().display()
    ))?;
    client.ip(&format!(
        "link set second name third netns {}",
        host.path().display()
    ))?;
    host.ip("link set third name fourth
         link set fourth up addrgenmode none
         address add fe80::2/64 dev fourth nodad
         address add 192.0.2.2/24 dev fourth
         address add 2001:db8:2::2/64 dev fourth nodad")?;
    wait_for_programs(&site, "fourth")?;
    through_192_0_2_1(host)?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    let balancer = datagram::socket(&site.lab.edge, site.of(BEHIND_IT, 0))?;
    balancer.connect(site.of(IN_FRONT_OF_IT, TRUEPEER_PORT + 1))?;
    site.exchange(&balancer, 1001, b"hello")?;
    site.end()
}

/// The balancer is behind the bridge's port, and answers leave by the other one first.
fn one_beside_a_bridge(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        set_up: &|lab| {
            bridge_uplink(lab)?;
            second_uplink(lab)?;
            through_192_0_2_1(&lab.host)
        },
        ..plan
    }
    .start()?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

/// One for what comes in and one for what goes out; a link says which device it is on, and the filters of kernels
/// without tcx are the device's.
fn wait_for_programs(site: &Site, device: &str) -> Result<()> {
    let described = site
        .lab
        .host
        .run(&format!("ip -o link show dev {device}"))?;
    let index = described.split(':').next().context("an index")?;
    let index = index.parse::<u64>()?;
    let filters = ["ingress", "egress"].map(|way| format!("tc filter show dev {device} {way}"));
    poll::until("datagrams to be seen on the new device", || {
        let links = site.truepeer.fd_infos("ifindex")?;
        let links = links.iter().filter(|link| **link == index);
        let mut are_there = links.count() >= filters.len();
        if !are_there {
            let shown = filters.iter().map(|show| site.lab.host.run(show));
            let shown = shown.collect::<Result<Vec<_>>>()?;
            are_there = shown.iter().all(|shown| shown.contains("datagrams_"));
        }
        Ok(are_there.then_some(()))
    })
}
