//! Who comes after a daemon has its clients. Before Linux 6.6 nothing can be handed on: start says so there.

use anyhow::{Result, ensure};

use super::site::Plan;
use super::{limits, rows};
use crate::lab::datagram::Framing;

rows! {
    the_next_daemon_goes_on;
    the_next_daemon_goes_on_counting;
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
    let plan = Plan {
        args: &["--maxconn", "1"],
        orphan_timeout: "10s",
        ..plan
    };
    let mut site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let next = site.command.clone().args(["--take-over"]).start()?;
    site.truepeer.wait_exit()?;
    site.truepeer = next;
    site.exchange(&balancer, 1000, b"hello")?;
    limits::refused(&site, &balancer, 1001)?;
    site.end()
}
