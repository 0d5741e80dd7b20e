//! The daemon's sign of life. On a thread of its own, as the kernel may keep the main one waiting for
//! longer than the programs are patient: while others change devices, attaching to one takes seconds.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    privileges::{self, Role},
    sys,
};

/// Between two beats.
const PERIOD: Duration = Duration::from_millis(500);
/// Who hasn't been heard of for this long hangs.
const LONGEST: Duration = Duration::from_secs(10);

/// Beats until it is dropped, as long as somebody [is there](Self::is_there).
pub struct Heart {
    started: Instant,
    /// Milliseconds from the start to the last word.
    heard: Arc<AtomicU64>,
    /// Closed with this.
    _stop: mpsc::Sender<()>,
}

impl Heart {
    /// `beat` is the program.
    pub fn start(beat: OwnedFd) -> Result<Self> {
        let started = Instant::now();
        let heard = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = mpsc::channel::<()>();
        let last = heard.clone();
        thread::Builder::new()
            .name("heart".into())
            .spawn(move || {
                if let Err(error) = privileges::keep(Role::Watcher) {
                    tracing::error!("{error:#}");
                }
                loop {
                    let last = Duration::from_millis(last.load(Relaxed));
                    if started.elapsed() < last + LONGEST
                        && let Err(error) = sys::bpf::run(beat.as_fd())
                    {
                        tracing::error!("telling the programs that the daemon is there: {error}");
                    }
                    if stopped.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Disconnected) {
                        break;
                    }
                }
            })
            .context("starting the thread of the daemon's sign of life")?;
        Ok(Self {
            started,
            heard,
            _stop: stop,
        })
    }

    /// The main thread goes on.
    pub fn is_there(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis());
        self.heard.store(elapsed.unwrap_or(u64::MAX), Relaxed);
    }
}
