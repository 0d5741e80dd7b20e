//! The README's table of capabilities: those are enough, none is too many, and after the start the
//! daemon has only what the table says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, LOOPBACK};
use crate::lab::app::Echo;
use crate::lab::header::Version;
use crate::lab::proc::Proc;
use crate::lab::stream::{read_greeting, round_trip};

/// A line of the table.
struct Row {
    capability: String,
    at_start: bool,
    after: String,
}

fn table() -> Result<Vec<Row>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme)?;
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, capability, at_start, after, ..] = cells[..] else {
            return None;
        };
        capability.starts_with("CAP_").then(|| Row {
            capability: capability.to_owned(),
            at_start: at_start == "yes",
            after: after.to_owned(),
        })
    };
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    ensure!(!rows.is_empty(), "the README has no table of capabilities");
    Ok(rows)
}

fn needed() -> Result<Vec<String>> {
    let rows = table()?.into_iter().filter(|row| row.at_start);
    Ok(rows.map(|row| row.capability).collect())
}

/// What the table leaves to this kind of thread, as a mask.
fn left_to(thread: &str) -> Result<u64> {
    let rows = table()?
        .into_iter()
        .filter(|row| row.after.contains(thread));
    rows.map(|row| {
        let name = row.capability.trim_start_matches("CAP_");
        let set = CapabilitySet::from_name(name);
        Ok(set.with_context(|| format!("no capability {name}"))?.bits())
    })
    .sum()
}

/// Each thread's name with the lines of its status.
fn threads(truepeer: &Proc) -> Result<Vec<(String, BTreeMap<String, String>)>> {
    let tasks = format!("/proc/{}/task", truepeer.pid().as_raw_nonzero());
    let mut threads = Vec::new();
    for task in fs::read_dir(tasks)? {
        let task = task?.path();
        let name = fs::read_to_string(task.join("comm"))?.trim().to_owned();
        let status = fs::read_to_string(task.join("status"))?;
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        let lines = lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
        threads.push((name, lines.collect()));
    }
    Ok(threads)
}

fn has_only_what_the_table_says(truepeer: &Proc, sets: &[&str]) -> Result<()> {
    let threads = threads(truepeer)?;
    ensure!(
        threads.len() == 7,
        "not a main thread, two that look after the host, one for the sign of life, one that writes the \
         log and two workers: {threads:?}"
    );
    for (name, status) in threads {
        let kind = match &*name {
            watcher @ ("facts" | "heart" | "upkeep") => watcher,
            // As much of its name as the kernel keeps.
            "tracing-appende" => "nobody",
            worker if worker.starts_with("worker-") => "workers",
            _ => "main thread",
        };
        for set in sets {
            let has = u64::from_str_radix(&status[*set], 16)?;
            assert_eq!(has, left_to(kind)?, "{set} of {name}");
        }
        assert_eq!(status["CapInh"], "0000000000000000", "{name}");
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
    }
    Ok(())
}

/// From a port that only the privileged may use.
fn serves(lab: &Lab) -> Result<()> {
    for client in CLIENT.both(99) {
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        let mut balancer = lab.balancer(&header)?;
        assert_eq!(read_greeting(&mut balancer)?, client);
        round_trip(&mut balancer, b"hello")?;
    }
    Ok(())
}

fn apps(lab: &Lab) -> Result<[Echo; 2]> {
    let [v4, v6] = LOOPBACK.both(APP_PORT);
    Ok([
        Echo::greeting(&lab.host, v4)?,
        Echo::greeting(&lab.host, v6)?,
    ])
}

#[test]
fn exactly_the_tables_capabilities_are_enough() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let truepeer = lab.truepeer().capabilities(needed()?);
    let truepeer = truepeer.args(["--workers", "2", "-v"]);
    let mut running = truepeer.start()?;
    has_only_what_the_table_says(&running, &["CapEff", "CapPrm"])?;
    serves(&lab)?;

    lab.host
        .ip("link add late type veth peer name later\nlink set late up")?;
    running.wait_line("steering replies device=\"late\"")?;
    running.signal(Signal::HUP)?;
    running.wait_line("reloaded")?;
    lab.host.ip("link del late")?;
    serves(&lab)?;

    truepeer.check()?.expect(0, &["ok spoofed"])?;
    running.signal(Signal::TERM)?;
    assert_eq!(running.wait_exit()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_daemon_of_root_gives_up_all_the_rest() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let running = lab.truepeer().args(["--workers", "2"]).start()?;
    has_only_what_the_table_says(&running, &["CapEff", "CapPrm", "CapBnd"])?;
    serves(&lab)
}

#[test]
fn each_that_is_missing_is_named() -> Result<()> {
    let needed = needed()?;
    for missing in &needed {
        let lab = Lab::new()?;
        let _apps = apps(&lab)?;
        let rest = needed.iter().filter(|name| *name != missing);
        let truepeer = lab.truepeer().capabilities(rest.cloned());
        let said = truepeer.check()?;
        said.expect(1, &[&format!("FAIL capability: {missing} is missing")])?;
        let others = said
            .text
            .lines()
            .filter(|line| line.starts_with("ok capability"));
        assert_eq!(others.count(), needed.len() - 1, "{}", said.text);
        truepeer
            .run_to_end()?
            .expect(1, &[&format!("missing {missing} ")])?;
    }
    Ok(())
}
