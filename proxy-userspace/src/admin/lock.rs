//! One daemon per instance.

use std::{
    fs::{self, File, Permissions, TryLockError},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

/// Held as long as the daemon runs; the kernel lets go of it when the process ends, however.
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    /// That one, or the one that the daemon before this one still has.
    pub async fn or_inherited(lock: Option<Self>, instance: &str) -> Result<Self> {
        match lock {
            Some(lock) => Ok(lock),
            None => Self::inherit(instance).await,
        }
    }

    /// Once the daemon that was has let go of it.
    async fn inherit(instance: &str) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(10);
        const PAUSE: Duration = Duration::from_millis(5);
        let give_up = Instant::now() + PATIENCE;
        loop {
            match Self::take(instance) {
                Err(_) if Instant::now() < give_up => sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    pub fn take(instance: &str) -> Result<Self> {
        let taken =
            format!("instance {instance} is running already: choose another name with --instance");
        lock_at_once(instance, "lock", taken).map(Self)
    }
}

/// While one daemon goes on with what another one has, that one changes nothing of it.
pub struct TakeOver(#[expect(dead_code, reason = "the open file is the lock")] File);

impl TakeOver {
    /// By the next one: waits until the other one is through with what it changes just now.
    pub fn begin(instance: &str) -> Result<Self> {
        let (path, file) = open(instance, "take-over.lock")?;
        file.lock()
            .with_context(|| format!("locking {}", path.display()))?;
        Ok(Self(file))
    }

    /// By the one that serves: none begins as long as it has this.
    pub fn none_begins(instance: &str) -> Result<Self> {
        let taken = "another daemon is taking over: ask that one".to_owned();
        lock_at_once(instance, "take-over.lock", taken).map(Self)
    }
}

/// `taken`: what is wrong where another process has it.
fn lock_at_once(instance: &str, extension: &str, taken: String) -> Result<File> {
    let (path, file) = open(instance, extension)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(taken),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

fn open(instance: &str, extension: &str) -> Result<(PathBuf, File)> {
    let path = super::path(instance, extension);
    let directory = path.parent().unwrap_or(&path);
    // Others may pass through to what is theirs in there.
    fs::create_dir_all(directory)
        .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o755)))
        .with_context(|| format!("making {} (needs root)", directory.display()))?;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {} (needs root)", path.display()))?;
    Ok((path, file))
}
