//! How long a start and a stop take on a host with many devices.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::figures;
use crate::lab::netns::Netns;
use crate::lineup::binary;
use crate::results::Figures;

/// With `lo` and truepeer's own two, as many as a host of containers may have.
const DEVICES: usize = 160;
const INSTANCE: &str = "bench-devices";

pub fn run() -> Result<Figures> {
    let host = Netns::new("devices")?;
    host.ip("link set lo up")?;
    let each = (0..DEVICES)
        .map(|number| format!("link add device{number} type bridge\nlink set device{number} up\n"));
    host.ip(&each.collect::<String>())?;
    let mut command = Command::new(binary()?);
    command.args(["run", "--instance", INSTANCE, "--allow", "192.0.2.0/24"]);
    command.args(["--listen", "127.0.0.1:7000", "--target4", "127.0.0.1:8080"]);
    let start = Instant::now();
    let mut truepeer = host.spawn(command)?;
    truepeer.wait_line("ready")?;
    let ready = start.elapsed();
    truepeer.wait_line("replies are steered on all")?;
    let all = start.elapsed();
    let stop = Instant::now();
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    let stopped = stop.elapsed();
    forget().context("what the daemon has left")?;
    let figure =
        |what: &str, took: Duration| figures::took(format!("{DEVICES} devices, {what}"), took);
    Ok(vec![
        figure("ready", ready),
        figure("all steered", all),
        figure("stop", stopped),
    ])
}

fn forget() -> Result<()> {
    let forget = ["forget", "--instance", INSTANCE];
    Command::new(binary()?).args(forget).output()?;
    Ok(())
}
