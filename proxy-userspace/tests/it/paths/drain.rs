//! SIGTERM with open connections, whoever carries their bytes.

use std::io::Write;
use std::net::Shutdown;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use socket2::SockRef;

use super::headers::after_one_segment;
use super::{CLIENT_PORT, MIB, Plan, Site, only, paths};
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::payload::Payload;
use crate::lab::stream::{expect_cut, expect_end, expect_reset};
use crate::lab::talk::{Side, Talk};

only! {
    direct:
    a_close_on_its_way_holds_nothing;
}

paths! {
    open_connections_finish;
    what_the_app_has_not_read_yet_arrives;
    a_second_signal_resets_at_once;
    the_drain_timeout_resets;
}

/// Of connections that the daemon has, as their headers come in two parts.
fn a_close_on_its_way_holds_nothing(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let mut talks = Vec::new();
    for port in (CLIENT_PORT..).take(8) {
        let header = site.header(Version::V2, port);
        let (first, rest) = header.split_at(9);
        let balancer = after_one_segment(&site, first)?;
        (&balancer).write_all(rest)?;
        talks.push(Talk::accept(balancer, &site.app, site.client(port))?);
    }
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;
    // The apps have not closed: the daemon's ends wait for theirs.
    for talk in &talks {
        talk.balancer.shutdown(Shutdown::Both)?;
    }
    for talk in &mut talks {
        expect_end(&mut talk.app)?;
    }
    drop(talks);
    assert_eq!(site.truepeer.wait_exit()?.code(), Some(0));
    site.lab.no_device_left()
}

/// Both one that has talked and one that has only begun.
fn open_connections_finish(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let mut warm = site.warm(CLIENT_PORT)?;
    let mut young = site.open(CLIENT_PORT + 1)?;
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;

    warm.ping_pong(64, 100)?;
    young.ping_pong(64, 100)?;
    warm.transfer(&Side::BOTH, MIB)?;
    ensure!(site.truepeer.is_running()?, "it left a connection behind");
    young.transfer(&Side::BOTH, MIB)?;
    drop((warm, young));
    assert_eq!(site.truepeer.wait_exit()?.code(), Some(0));
    site.lab.no_device_left()
}

/// The daemon has ended both halves, and the last bytes wait for room at the app's socket.
fn what_the_app_has_not_read_yet_arrives(plan: Plan<'_>) -> Result<()> {
    // More than a window, less than a window and what the daemon's socket takes.
    const LENGTH: usize = 256 << 10;
    const LOOKS: usize = 20;
    let mut site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    SockRef::from(&talk.balancer).set_send_buffer_size(LENGTH)?;
    talk.app.shutdown(Shutdown::Write)?;
    expect_end(&mut talk.balancer)?;
    let payload = Payload::short(1);
    payload.send(&mut talk.balancer, LENGTH)?;
    talk.balancer.shutdown(Shutdown::Write)?;
    if site.path == Path::Daemon {
        site.lab.wait_ended(&json!({ "closed": 1 }))?;
    }
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;
    // Each takes longer than it would to leave.
    for _ in 0..LOOKS {
        site.lab.shown("status")?;
    }
    payload.receive(&mut talk.app, LENGTH)?;
    drop(talk);
    assert_eq!(site.truepeer.wait_exit()?.code(), Some(0));
    site.lab.no_device_left()
}

fn a_second_signal_resets_at_once(plan: Plan<'_>) -> Result<()> {
    let mut site = with_timeout(plan, "600s")?;
    let talk = site.warm(CLIENT_PORT)?;
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;
    site.truepeer.signal(Signal::TERM)?;
    both_are_reset(talk)?;
    ensure!(site.truepeer.wait_exit()?.code().is_some(), "it was killed");
    site.lab.no_device_left()
}

fn the_drain_timeout_resets(plan: Plan<'_>) -> Result<()> {
    let mut site = with_timeout(plan, "3s")?;
    let mut talk = site.warm(CLIENT_PORT)?;
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;
    talk.ping_pong(64, 10)?;
    both_are_reset(talk)?;
    assert_eq!(site.truepeer.wait_exit()?.code(), Some(0));
    site.lab.no_device_left()
}

fn with_timeout(plan: Plan<'_>, timeout: &str) -> Result<Site> {
    let args = ["--drain-timeout", timeout];
    Plan {
        args: &args,
        ..plan
    }
    .start()
}

/// To the app of a direct connection its own host has done it.
fn both_are_reset(mut talk: Talk) -> Result<()> {
    expect_reset(&mut talk.balancer).context("the balancer")?;
    expect_cut(&mut talk.app).context("the app")
}
