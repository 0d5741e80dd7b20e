//! kill -9: nobody is left to say anything, and still both ends of what the daemon has carried hear of
//! it. What becomes of direct connections is the keeper's.

use std::io::{ErrorKind, Read, Write};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::aborts::{read_for_ever, send_for_ever};
use super::closes::half_close;
use super::{CLIENT_PORT, MIB, Plan, only};
use crate::lab::leaks::Leaks;
use crate::lab::stream::{expect_cut, expect_reset};
use crate::lab::talk::{Side, Talk};

only! {
    daemon:
    idle_connections_are_reset;
    a_busy_sender_is_reset;
    a_busy_app_is_reset;
    half_closed_connections_are_reset;
    the_next_daemon_serves_the_same_client;
}

fn idle_connections_are_reset(plan: Plan<'_>) -> Result<()> {
    const COUNT: u16 = 8;
    let mut site = plan.start()?;
    let leaks = Leaks::watch(&site.lab.edge)?;
    let ports = CLIENT_PORT..CLIENT_PORT + COUNT;
    let talks: Result<Vec<_>> = ports.map(|port| site.warm(port)).collect();
    site.kill()?;
    talks?.into_iter().try_for_each(both_are_reset)?;
    site.lab.no_device_left()?;
    leaks.saw_none()
}

fn both_are_reset(mut talk: Talk) -> Result<()> {
    expect_reset(&mut talk.balancer).context("for the balancer")?;
    expect_cut(&mut talk.app).context("for the app")
}

fn a_busy_sender_is_reset(plan: Plan<'_>) -> Result<()> {
    busy(plan, Side::Balancer)
}

fn a_busy_app_is_reset(plan: Plan<'_>) -> Result<()> {
    busy(plan, Side::App)
}

fn busy(plan: Plan<'_>, side: Side) -> Result<()> {
    let mut site = plan.start()?;
    let leaks = Leaks::watch(&site.lab.edge)?;
    let talk = site.warm(CLIENT_PORT)?;
    let (sender, reader) = talk.ends(side);
    thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| send_for_ever(sender));
        (&*reader).read_exact(&mut vec![0; 4 << 20])?;
        let reading = scope.spawn(|| read_for_ever(reader));
        site.kill()?;
        for (end, what) in [(sending, "sender"), (reading, "reader")] {
            let error = end.join().expect("no panic on the way");
            // The keeper may be at the application's socket before the daemon's last packet is.
            let is_apps = (what == "sender") == matches!(side, Side::App);
            let is_cut = is_apps && error == ErrorKind::ConnectionAborted;
            ensure!(
                is_cut || error == ErrorKind::ConnectionReset,
                "the {what}: {error}"
            );
        }
        Ok(())
    })?;
    drop(talk);
    site.lab.no_device_left()?;
    leaks.saw_none()
}

fn half_closed_connections_are_reset(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let leaks = Leaks::watch(&site.lab.edge)?;
    let mut talks = Vec::new();
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let talk = site.warm(port)?;
        half_close(&talk, side)?;
        talks.push(talk.split(side));
    }
    site.kill()?;
    for (mut ended, mut other) in talks {
        expect_reset(&mut ended)?;
        // A socket that has heard the end says so first.
        let error = read_for_ever(&other);
        ensure!(error != ErrorKind::WouldBlock, "the other end hangs");
        ensure!(other.write_all(b"late").is_err());
    }
    site.lab.no_device_left()?;
    leaks.saw_none()
}

/// Nothing of the first one's connections is in the way of the second's.
fn the_next_daemon_serves_the_same_client(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let first = site.warm(CLIENT_PORT)?;
    site.kill()?;
    both_are_reset(first)?;
    let _next = plan.truepeer(&site.lab).start()?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, MIB)
}
