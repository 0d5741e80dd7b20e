//! `truepeer status --all` and `truepeer forget`: the instances of this host, and what they have left.

use std::{collections::BTreeSet, fmt::Write as _, process::ExitCode};

use anyhow::{Result, bail};
use serde::Serialize;

use super::{args::InstanceArgs, show};
use crate::{
    admin::{self, Lock, Request, Status, ask},
    keeper,
    kernel::{List, Prefixes, forget_lists, listing_instances},
};

#[derive(Serialize)]
struct Instance {
    name: String,
    /// Of the daemon, if one runs.
    pid: Option<u32>,
    /// Of its allowlist, which stays when it has stopped.
    prefixes: usize,
}

pub fn list(as_json: bool) -> Result<ExitCode> {
    let all: Vec<_> = known()?.into_iter().map(look).collect::<Result<_>>()?;
    if as_json {
        show(serde_json::to_string(&all)? + "\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = String::new();
    for Instance {
        name,
        pid,
        prefixes,
    } in &all
    {
        let state = pid.map_or_else(|| "stopped".into(), |pid| format!("running, pid {pid}"));
        // A String takes whatever is written.
        let _ = writeln!(lines, "{name:<24} {state:<24} {prefixes} prefixes");
    }
    show(lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes what an instance has left. One that runs, or may be continued, is left alone.
pub fn forget(args: &InstanceArgs) -> Result<ExitCode> {
    let instance = &args.instance;
    if !known()?.contains(instance) {
        bail!("nothing is known of instance {instance}: see `truepeer status --all`");
    }
    let _lock = Lock::take(instance)?;
    if keeper::is_there(instance)? {
        bail!("instance {instance} has open connections that wait for its next start");
    }
    let prefixes = forget_lists(instance)?;
    admin::forget(instance)?;
    println!("forgot instance {instance}, and {prefixes} prefixes of its lists");
    Ok(ExitCode::SUCCESS)
}

fn known() -> Result<BTreeSet<String>> {
    let mut known = admin::known()?;
    known.extend(listing_instances()?);
    Ok(known)
}

fn look(name: String) -> Result<Instance> {
    let status: Option<Status> = ask(&name, Request::Status).ok();
    let prefixes = match Prefixes::find(&name, List::Allow)? {
        Some(list) => list.count()?,
        None => 0,
    };
    Ok(Instance {
        pid: status.map(|status| status.pid),
        name,
        prefixes,
    })
}
