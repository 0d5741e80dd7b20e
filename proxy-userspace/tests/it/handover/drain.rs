//! SIGTERM, when there are connections that the daemon doesn't see the bytes of.

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::stream::expect_reset;
use crate::lab::talk::{Side, Talk};

families! {
    open_connections_finish;
    a_second_signal_resets_at_once;
    the_drain_timeout_resets;
}

/// Both a handed-over one and one that isn't yet.
fn open_connections_finish(family: Family) -> Result<()> {
    let mut site = Site::new(family)?;
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

fn a_second_signal_resets_at_once(family: Family) -> Result<()> {
    let mut site = with_timeout(family, "600s")?;
    let talk = site.warm(CLIENT_PORT)?;
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;
    site.truepeer.signal(Signal::TERM)?;
    both_are_reset(talk)?;
    ensure!(site.truepeer.wait_exit()?.code().is_some(), "it was killed");
    site.lab.no_device_left()
}

fn the_drain_timeout_resets(family: Family) -> Result<()> {
    let mut site = with_timeout(family, "200ms")?;
    let talk = site.warm(CLIENT_PORT)?;
    site.truepeer.signal(Signal::TERM)?;
    both_are_reset(talk)?;
    assert_eq!(site.truepeer.wait_exit()?.code(), Some(0));
    site.lab.no_device_left()
}

fn with_timeout(family: Family, timeout: &str) -> Result<Site> {
    let mut plan = Plan::new(family);
    let args = ["--drain-timeout", timeout];
    plan.args = &args;
    plan.start()
}

fn both_are_reset(mut talk: Talk) -> Result<()> {
    expect_reset(&mut talk.balancer)?;
    expect_reset(&mut talk.app)
}
