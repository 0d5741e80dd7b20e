//! Who comes after a daemon has its clients. Before Linux 6.6 nothing can be handed on: start says so there.

use anyhow::{Context, Result, ensure};

use super::site::Plan;
use super::{limits, rows};
use crate::lab::addr::{APP_PORT, HOST, LOOPBACK};
use crate::lab::datagram::{Echo, Framing, Kind};

rows! {
    the_next_daemon_goes_on;
    the_next_daemon_goes_on_counting;
    the_next_daemon_has_another_target;
}

/// The client that v2-first has been told of is still known.
fn the_next_daemon_goes_on(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::V2First;
    let orphan_timeout = "10s";
    let mut site = Plan {
        framing,
        orphan_timeout,
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let next = site.command.clone().args(["--take-over"]).start()?;
    site.truepeer.wait_line("replaced by another daemon")?;
    site.truepeer.wait_exit()?;
    site.exchange_with(&balancer, &[], 1000, b"and with the next one")?;
    let shown = site.lab.shown("connections")?;
    ensure!(shown[0]["datagrams"]["up"] == 2, "{shown:#}");
    site.truepeer = next;
    site.end()
}

fn the_next_daemon_goes_on_counting(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn", "1"];
    goes_on_counting(Plan { args, ..plan }, "datagram_full")
}

/// Of a plan by which there is room for one client alone.
pub fn goes_on_counting(plan: Plan<'_>, counter: &str) -> Result<()> {
    let orphan_timeout = "10s";
    let mut site = Plan {
        orphan_timeout,
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let next = site.command.clone().args(["--take-over"]).start()?;
    site.truepeer.wait_exit()?;
    site.truepeer = next;
    site.exchange(&balancer, 1000, b"hello")?;
    limits::refused_as(&site, &balancer, 1001, counter)?;
    site.end()
}

/// What is listed under that is what goes there.
fn the_next_daemon_has_another_target(plan: Plan<'_>) -> Result<()> {
    let orphan_timeout = "10s";
    for at in [LOOPBACK, HOST] {
        let plan = plan.app_at(at);
        let mut site = Plan {
            orphan_timeout,
            ..plan
        }
        .start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        let target = site.of(at, APP_PORT + 1);
        let app = Echo::listen(&site.lab.host, target, Kind::Unconnected)?;
        let next = site.command.clone().targets_for(target);
        let next = next.args(["--take-over"]).start()?;
        site.truepeer.wait_exit()?;
        site.truepeer = next;
        let targets = || -> Result<Vec<_>> {
            let mut shown = site.lab.shown("connections")?;
            let all = shown.as_array_mut().context("an array")?;
            Ok(all.iter_mut().map(|one| one["target"].take()).collect())
        };
        let before = targets()?;
        ensure!(
            before.len() == 1 && before[0] != target.to_string(),
            "{before:?}"
        );
        balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
        ensure!(app.next()? == (site.client(1000), b"hello".to_vec()));
        site.answered(&balancer, 1000, b"hello")?;
        let mut after = targets()?;
        after.retain(|one| !before.contains(one));
        ensure!(after == [target.to_string()], "{after:?} behind {before:?}");
        site.app.saw_nobody()?;
        site.end()?;
    }
    Ok(())
}
