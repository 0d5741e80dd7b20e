//! Waiting for something that has no file descriptor to wait on.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take before it counts as broken. Generous: it is a deadline for failures,
/// not a measurement, and two tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two questions. The longer the answer has taken already, the less it matters when it is
/// heard, and asking keeps others from their work: many a question starts a process.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(100);

/// Asks until the answer is there; `what` completes "waited in vain for …".
pub fn until<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, ask)
}

/// The same, for as long.
pub fn within<T>(
    patience: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        let waited = start.elapsed();
        if waited > patience {
            bail!("waited in vain for {what}");
        }
        thread::sleep((waited / 8).clamp(SOON, LATER));
    }
}
