//! Waiting for something that has no file descriptor to wait on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take before it counts as broken. Generous: it is a deadline for failures,
/// not a measurement, and two tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is there; `what` completes "waited in vain for …".
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited in vain for {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
