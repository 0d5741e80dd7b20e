//! What each run of an eBPF program takes, by the kernel's own clock.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::lab::proc::Proc;

/// Runs, and nanoseconds of all of them, by program; one attached to several devices counts once.
pub type Runs = BTreeMap<String, (u64, u64)>;

/// What this daemon's programs did during `load`. The kernel counts as long as somebody holds the
/// descriptor it gave, so nothing needs to be restored.
pub fn during(daemon: &Proc, load: impl FnOnce() -> Result<()>) -> Result<Runs> {
    let counting = enable_stats(Stats::RunTime).context("counting programs' runs")?;
    let before = runs(daemon)?;
    load()?;
    let mut runs = runs(daemon)?;
    drop(counting);
    for (name, (count, time)) in before {
        if let Some(after) = runs.get_mut(&name) {
            after.0 -= count;
            after.1 -= time;
        }
    }
    Ok(runs)
}

fn runs(daemon: &Proc) -> Result<Runs> {
    let links = daemon.fd_info("prog_id").context("the daemon's programs")?;
    let mut runs = Runs::new();
    for program in loaded_programs() {
        let program = program?;
        if links.contains(&program.id().into()) {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            let sum = runs.entry(name).or_default();
            sum.0 += program.run_count();
            sum.1 += u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    Ok(runs)
}
