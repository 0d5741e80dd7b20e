//! One daemon per instance.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
};

use anyhow::{Context, Result, bail};

/// Held as long as the daemon runs; the kernel lets go of it when the process ends, however.
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    pub fn take(instance: &str) -> Result<Self> {
        let path = super::path(instance, "lock");
        let directory = path.parent().unwrap_or(&path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("making {} (needs root)", directory.display()))?;
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("opening {} (needs root)", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                bail!("instance {instance} is running already: choose another name with --instance")
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", path.display()))
            }
        }
    }
}
