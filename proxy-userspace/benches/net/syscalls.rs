//! System calls per short connection, counted by strace.

use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::connects;
use crate::peers;
use crate::report::Notes;
use crate::site::Site;

const CONNECTIONS: usize = 500;

/// Few and one after the other: strace slows a proxy down so much that more would only queue.
pub fn count(site: &Site) -> Result<Notes> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "name,calls"]);
    let processes = site.usage().processes()?;
    for process in &processes {
        strace.args(["-p", process]);
    }
    let mut strace = site.host.spawn(strace)?;
    strace.wait_lines("attached", processes.len())?;
    // What a first connection sets up is not every connection's.
    connects::in_turn(&site.dialer(), CONNECTIONS).context("connecting under strace")?;
    strace.signal(Signal::INT)?;
    strace.wait_exit()?;
    let mut notes = Notes::new(&format!(
        "{}: system calls per connection",
        site.kind.name()
    ));
    let log = strace.log();
    let mut calls: Vec<_> = log.iter().filter_map(|line| row(line)).collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (name, count) in calls {
        // Less than one in ten connections is no part of a connection.
        if count * 10 >= CONNECTIONS as u64 {
            notes.add(name, count as f64 / CONNECTIONS as f64);
        }
    }
    peers::end(strace);
    Ok(notes)
}

/// `name  calls`, and nothing else: headings, rules and messages aren't.
fn row(line: &str) -> Option<(&str, u64)> {
    let mut fields = line.split_whitespace();
    let (name, count) = (fields.next()?, fields.next()?.parse().ok()?);
    fields.next().is_none().then_some((name, count))
}
