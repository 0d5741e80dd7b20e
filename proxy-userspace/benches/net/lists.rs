//! How long it takes to have another allowlist of half a million prefixes in force.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::figures;
use crate::lab::netns::Netns;
use crate::lineup::binary;
use crate::results::Figures;

const PREFIXES: u32 = 500_000;
const INSTANCE: &str = "bench-lists";

pub fn run() -> Result<Figures> {
    let host = Netns::new("lists")?;
    host.ip("link set lo up")?;
    let directory = TempDir::new()?;
    let [file, next] = ["allow", "next"].map(|name| directory.path().join(name));
    // Half of each is on both.
    let lists = [[10, 0, 0, 0], [10, 3, 208, 144]].map(|first| list(u32::from_be_bytes(first)));
    fs::write(&file, &lists[0])?;
    fs::write(&next, &lists[1])?;
    let mut command = Command::new(binary()?);
    command
        .args(["run", "--instance", INSTANCE, "--allow-file"])
        .arg(&file);
    command.args(["--listen", "127.0.0.1:7000", "--target4", "127.0.0.1:8080"]);
    let start = Instant::now();
    let mut truepeer = host.spawn(command)?;
    truepeer.wait_line("ready")?;
    let ready = start.elapsed();
    let replaced = timed(|| ask(&["allow", "replace", "--file"], Some(&next)))?;
    let reloaded = timed(|| ask(&["reload"], None))?;
    let renamed = timed(|| {
        fs::rename(&next, &file)?;
        truepeer
            .wait_line("a list's file has changed: reloaded")
            .map(drop)
    })?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    ask(&["forget"], None).context("what the daemon has left")?;
    let figure =
        |what: &str, took: Duration| figures::took(format!("{PREFIXES} prefixes, {what}"), took);
    Ok(vec![
        figure("ready", ready),
        figure("replace --file", replaced),
        figure("reload", reloaded),
        figure("file renamed", renamed),
    ])
}

/// Single addresses from `first` on.
fn list(first: u32) -> String {
    (first..first + PREFIXES).fold(String::new(), |mut text, address| {
        // Nothing that is written to memory fails.
        let _ = writeln!(text, "{}", std::net::Ipv4Addr::from(address));
        text
    })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn ask(words: &[&str], file: Option<&Path>) -> Result<()> {
    let mut command = Command::new(binary()?);
    command
        .args(words)
        .args(file)
        .args(["--instance", INSTANCE]);
    let said = command.output()?;
    ensure!(said.status.success(), "{command:?}: {said:?}");
    Ok(())
}
