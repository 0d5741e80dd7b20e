//! As many clients as there may be, and who makes room for a new one.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::clients::counted;
use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::NEIGHBOUR;
use crate::lab::flows::age;

rows! {
    the_oldest_idle_one_makes_room;
    silent_ones_make_room;
    a_balancer_takes_nobody_else_s_place;
    balancers_share_the_service_s;
    a_client_that_moves_to_another_balancer;
    a_client_that_moves_while_he_is_answered;
}

/// Of the programs' seconds: for so long a client counts as busy, and one more.
pub const BUSY: u32 = 6;
/// The same, as it passes; the programs' seconds are a little longer.
const BUSY_ONES: Duration = Duration::from_millis(6_500);
/// What is so much older is older to the daemon as well.
const OLDER: u32 = 2;

fn the_oldest_idle_one_makes_room(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn", "3"];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    // Not the one that came first.
    for port in [1002, 1001] {
        site.exchange(&balancer, port, b"hello")?;
    }
    age(&site.truepeer, OLDER)?;
    for port in [1002, 1000] {
        site.exchange(&balancer, port, b"hello")?;
    }
    age(&site.truepeer, BUSY)?;
    site.exchange(&balancer, 1000, b"again")?;
    site.exchange(&balancer, 1003, b"hello")?;
    listed(&site, &[1000, 1002, 1003])?;
    site.exchange(&balancer, 1004, b"hello")?;
    listed(&site, &[1000, 1003, 1004])?;
    let evicted = counts(&site, "datagram_evicted")?;
    ensure!(evicted == 2, "{evicted} made room");
    refused(&site, &balancer, 1005)?;
    for port in [1000, 1003, 1004] {
        site.exchange(&balancer, port, b"still here")?;
    }
    site.end()
}

/// They are forgotten: nobody is evicted for the new ones, however young they are.
fn silent_ones_make_room(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn", "20", "--close-after", "1s"];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    for port in 1000..1020 {
        site.exchange(&balancer, port, b"hello")?;
    }
    refused(&site, &balancer, 1020)?;
    site.wait_forgotten()?;
    // What the daemon takes for now is half a second behind.
    sleep(Duration::from_secs(1));
    for port in 1020..1040 {
        site.exchange(&balancer, port, b"hello")?;
    }
    let evicted = counts(&site, "datagram_evicted")?;
    ensure!(evicted == 0, "{evicted} were evicted");
    site.leaks.saw_none()
}

pub fn with_another_balancer(plan: Plan<'_>) -> Result<(Site, UdpSocket, UdpSocket)> {
    let plan = Plan {
        allow: &[NEIGHBOUR],
        ..plan
    };
    let site = plan.start()?;
    let (balancer, other) = (site.balancer()?, site.balancer_at(NEIGHBOUR)?);
    Ok((site, balancer, other))
}

fn a_balancer_takes_nobody_else_s_place(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-balancer", "2"];
    let (site, balancer, other) = with_another_balancer(Plan { args, ..plan })?;
    for port in [1000, 1001] {
        site.exchange(&other, port, b"hello")?;
        site.exchange(&balancer, port + 100, b"hello")?;
    }
    // Nor by another socket, as limits are of addresses.
    refused(&site, &site.balancer()?, 1102)?;
    age(&site.truepeer, BUSY)?;
    for port in [1103, 1104] {
        site.exchange(&balancer, port, b"hello")?;
    }
    refused(&site, &balancer, 1105)?;
    listed(&site, &[1000, 1001, 1103, 1104])?;
    let shown = site.lab.shown("status")?["services"][0]["clients"].take();
    ensure!(shown["most_per_balancer"] == 2, "{shown:#}");
    site.end()
}

fn balancers_share_the_service_s(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn", "2"];
    let (site, balancer, other) = with_another_balancer(Plan { args, ..plan })?;
    site.exchange(&other, 1000, b"hello")?;
    age(&site.truepeer, OLDER)?;
    site.exchange(&balancer, 1001, b"hello")?;
    refused(&site, &balancer, 1002)?;
    age(&site.truepeer, BUSY)?;
    site.exchange(&balancer, 1003, b"hello")?;
    listed(&site, &[1001, 1003])?;
    site.exchange(&other, 1004, b"hello")?;
    listed(&site, &[1003, 1004])?;
    site.end()
}

/// An application that goes on speaking to a balancer who is gone doesn't keep others from taking his place.
fn a_client_that_moves_while_he_is_answered(plan: Plan<'_>) -> Result<()> {
    let (site, balancer, other) = with_another_balancer(plan)?;
    site.exchange(&other, 1000, b"hello")?;
    age(&site.truepeer, BUSY)?;
    site.app.say(site.client(1000), b"are you there?")?;
    site.answered(&other, 1000, b"are you there?")?;
    site.exchange(&balancer, 1000, b"by another way")?;
    site.app.say(site.client(1000), b"well")?;
    site.answered(&balancer, 1000, b"well")?;
    site.end()
}

/// He counts as the new one's, and no longer as the old one's.
fn a_client_that_moves_to_another_balancer(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-balancer", "1"];
    let (site, balancer, other) = with_another_balancer(Plan { args, ..plan })?;
    site.exchange(&other, 1000, b"hello")?;
    // Here time itself passes.
    sleep(BUSY_ONES);
    site.exchange(&balancer, 1000, b"hello")?;
    refused(&site, &balancer, 1001)?;
    site.exchange(&other, 1002, b"hello")?;
    listed(&site, &[1000, 1002])?;
    let evicted = counts(&site, "datagram_evicted")?;
    ensure!(evicted == 0, "{evicted} were evicted");
    site.end()
}

/// A datagram of a new client is dropped, and counted as one more.
pub fn refused(site: &Site, balancer: &UdpSocket, port: u16) -> Result<()> {
    refused_as(site, balancer, port, "datagram_full")
}

pub fn refused_as(site: &Site, balancer: &UdpSocket, port: u16, counter: &str) -> Result<()> {
    let before = counts(site, counter)?;
    balancer.send(&[&site.header(port)[..], b"too many"].concat())?;
    counted(site, counter, before + 1)?;
    site.app.saw_nobody()
}

pub fn counts(site: &Site, name: &str) -> Result<u64> {
    let kernel = site.lab.shown("status")?["kernel"].take();
    Ok(kernel[name].as_u64().unwrap_or_default())
}

pub fn listed(site: &Site, ports: &[u16]) -> Result<()> {
    let shown = site.lab.shown("connections")?;
    let all = shown.as_array().context("an array")?;
    let clients: BTreeSet<_> = all.iter().map(|one| one["client"].to_string()).collect();
    let expected = ports
        .iter()
        .map(|port| format!("\"{}\"", site.client(*port)));
    let expected = expected.collect();
    ensure!(clients == expected, "{clients:?} and not {expected:?}");
    Ok(())
}
