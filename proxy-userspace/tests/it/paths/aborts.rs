//! A reset at one end is a reset at the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{CLIENT_PORT, Plan, paths};
use crate::lab::stream::{expect_end, expect_reset, reset};
use crate::lab::talk::Side;

paths! {
    when_idle;
    while_the_other_sends;
    with_data_on_the_way;
    after_a_half_close;
    by_a_close_with_unread_data;
}

fn when_idle(plan: Plan<'_>) -> Result<()> {
    aborts(plan, |resetter, mut other| {
        reset(resetter)?;
        expect_reset(&mut other)
    })
}

/// Ends both ways, each on a connection of its own.
fn aborts(plan: Plan<'_>, end: fn(TcpStream, TcpStream) -> Result<()>) -> Result<()> {
    let site = plan.start()?;
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let (resetter, other) = site.warm(port)?.split(side);
        end(resetter, other).with_context(|| format!("{side:?} resets"))?;
    }
    site.lab.wait_ended(&json!({ "reset": 2 }))?;
    site.no_flow_left()
}

fn while_the_other_sends(plan: Plan<'_>) -> Result<()> {
    aborts(plan, |mut resetter, other| {
        thread::scope(|scope| {
            let sending = scope.spawn(|| send_for_ever(&other));
            resetter.read_exact(&mut vec![0; 1 << 20])?;
            reset(resetter)?;
            let error = sending.join().expect("no panic on the way");
            ensure!(error == ErrorKind::ConnectionReset, "{error}");
            Ok(())
        })
    })
}

/// Until it fails, which it does with this.
pub fn send_for_ever(mut to: &TcpStream) -> ErrorKind {
    let block = vec![7; 1 << 16];
    loop {
        if let Err(error) = to.write_all(&block) {
            return error.kind();
        }
    }
}

/// Until it fails, which it does with this; a stream that has ended in order is an unexpected end.
pub fn read_for_ever(mut from: &TcpStream) -> ErrorKind {
    let mut block = vec![0; 1 << 16];
    loop {
        match from.read(&mut block) {
            Ok(0) => return ErrorKind::UnexpectedEof,
            Ok(_) => {}
            Err(error) => return error.kind(),
        }
    }
}

fn with_data_on_the_way(plan: Plan<'_>) -> Result<()> {
    aborts(plan, |resetter, other| {
        resetter.set_nonblocking(true)?;
        let error = send_for_ever(&resetter);
        ensure!(error == ErrorKind::WouldBlock, "{error}");
        reset(resetter)?;
        let error = read_for_ever(&other);
        ensure!(error == ErrorKind::ConnectionReset, "{error}");
        Ok(())
    })
}

fn after_a_half_close(plan: Plan<'_>) -> Result<()> {
    aborts(plan, |mut resetter, mut other| {
        other.shutdown(Shutdown::Write)?;
        expect_end(&mut resetter)?;
        reset(resetter)?;
        expect_reset(&mut other)
    })
}

/// As programs do that have heard enough: nobody asks for a reset there.
fn by_a_close_with_unread_data(plan: Plan<'_>) -> Result<()> {
    aborts(plan, |closer, mut other| {
        other.write_all(b"never read")?;
        closer.peek(&mut [0])?;
        drop(closer);
        expect_reset(&mut other)
    })
}
