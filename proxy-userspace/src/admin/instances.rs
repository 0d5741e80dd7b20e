//! What instances leave where the control sockets are.

use std::{collections::BTreeSet, fs, io};

use anyhow::{Context, Result};

use super::{DIRECTORY, path};

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

/// Removes what an instance has left that doesn't run.
pub fn forget(instance: &str) -> Result<()> {
    for extension in ["sock", "status.sock", "keeper.sock", "lock"] {
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
