//! What instances leave where the control sockets are.

use std::{collections::BTreeSet, fs, io};

use anyhow::{Context, Result};

use super::{DIRECTORY, Request, ServiceStatus, Status, ask_if_running, path};

/// Those that have run since the machine was booted.
pub fn known() -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.with_context(|| format!("reading {DIRECTORY}"))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".lock"));
        names.extend(name.map(Into::into));
    }
    Ok(names)
}

/// What the running instances but this one serve, in the calling thread's network namespace.
pub fn services_beside(instance: &str) -> Result<Vec<(String, ServiceStatus)>> {
    let mut services = Vec::new();
    for other in known()?.into_iter().filter(|other| other != instance) {
        // One that is starting or ending, or of another version, can't be asked.
        let Ok(Some(status)) = ask_if_running::<Status>(&other, Request::Status) else {
            continue;
        };
        if is_beside(status.pid) {
            services.extend(status.services.into_iter().map(|it| (other.clone(), it)));
        }
    }
    Ok(services)
}

/// Whether that process is in the calling thread's network namespace.
fn is_beside(pid: u32) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    namespace(&pid.to_string()).is_some_and(|it| Some(it) == namespace("thread-self"))
}

/// Removes what an instance has left that doesn't run.
pub fn forget(instance: &str) -> Result<()> {
    for extension in [
        "sock",
        "status.sock",
        "keeper.sock",
        "lock",
        "take-over.lock",
    ] {
        let file = path(instance, extension);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
