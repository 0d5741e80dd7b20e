//! What becomes of flows when the daemon goes.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::site::Plan;
use super::{limits, rows};
use crate::lab::addr::{APP_PORT, HOST};
use crate::lab::datagram::{self, Framing};
use crate::lab::poll;

rows! {
    the_next_daemon_goes_on;
    the_next_daemon_goes_on_counting;
    a_daemon_that_is_killed_leaves_nothing;
    a_daemon_that_is_told_to_end;
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

fn a_daemon_that_is_killed_leaves_nothing(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.truepeer.signal(Signal::KILL)?;
    site.truepeer.wait_exit()?;
    site.lab.no_device_left()?;
    balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
    let error = datagram::receive(&balancer).expect_err("nobody serves");
    let error = error.downcast_ref::<std::io::Error>().context("of I/O")?;
    ensure!(
        error.kind() == std::io::ErrorKind::ConnectionRefused,
        "{error}"
    );
    site.leaks.saw_none()?;
    site.lab.leaves_no_trace()
}

fn a_daemon_that_is_told_to_end(plan: Plan<'_>) -> Result<()> {
    let target = HOST;
    let bind = HOST;
    let mut site = Plan {
        target,
        bind,
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.truepeer.signal(Signal::TERM)?;
    let status = site.truepeer.wait_exit()?;
    ensure!(status.success(), "{status}");
    // The app goes on as if there had been no proxy.
    let client = datagram::socket(&site.lab.edge, site.of(crate::lab::addr::BALANCER, 0))?;
    poll::until("the app to hear the network", || {
        client.send_to(b"plainly", site.of(HOST, APP_PORT))?;
        Ok(datagram::receive(&client).ok().map(drop))
    })?;
    site.leaks.saw_none()
}
