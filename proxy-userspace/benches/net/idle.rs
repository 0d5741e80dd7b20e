//! Connections that have spoken once and are silent now: what each one holds.

use std::io::{self, Read};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::dial::Dialer;
use crate::pings::MESSAGE;
use crate::usage::{Memory, Usage};

/// Allocators and the kernel's slabs need it to give back what they can.
const SETTLE: Duration = Duration::from_millis(1500);

/// KiB per connection.
pub struct PerConnection {
    pub process: f64,
    /// Includes the balancer's and the app's ends.
    pub kernel: f64,
    /// MiB of the process before the first one.
    pub base: f64,
}

pub fn run(dialer: &Dialer, count: usize, usage: &Usage) -> Result<PerConnection> {
    let before = usage.memory()?;
    let streams = dialer.dial_all(count, &MESSAGE);
    let mut streams = streams.with_context(|| format!("opening {count} connections"))?;
    greet(&mut streams).context("the first bytes of idle connections")?;
    thread::sleep(SETTLE);
    let held = usage.memory()?;
    drop(streams);
    thread::sleep(SETTLE);
    let each = |pick: fn(&Memory) -> u64| {
        let grown = pick(&held).saturating_sub(pick(&before));
        grown as f64 / 1024.0 / count as f64
    };
    Ok(PerConnection {
        process: each(|memory| memory.process),
        kernel: each(|memory| memory.kernel),
        base: before.process as f64 / 1024.0 / 1024.0,
    })
}

fn greet(streams: &mut [TcpStream]) -> io::Result<()> {
    let mut answer = [0; MESSAGE.len()];
    streams
        .iter_mut()
        .try_for_each(|stream| stream.read_exact(&mut answer))
}
