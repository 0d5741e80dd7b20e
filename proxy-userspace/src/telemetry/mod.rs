//! What the operator gets to see: the log and the counts.

mod burst;
mod counts;
mod report;

use std::{
    io::{IsTerminal as _, stderr},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use counts::Counts;
pub use report::Telemetry;

use crate::privileges::{self, Role};

/// Dropped, it writes what still waits, unless nobody reads.
pub struct Log {
    writer: Option<WorkerGuard>,
    dropped: ErrorCounter,
}

impl Drop for Log {
    /// The writer's own end may wait for who reads standard output.
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let (done, ended) = mpsc::channel();
        let writer = self.writer.take();
        thread::spawn(move || {
            drop(writer);
            // Whoever has waited may have gone.
            let _ = done.send(());
        });
        let _ = ended.recv_timeout(PATIENCE);
    }
}

impl Log {
    /// Lines that there was no room for, as they weren't read.
    pub fn dropped(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Logs to stderr, where systemd and containers pick it up. The eBPF programs' lines come along. Nobody
/// waits for who reads it.
pub fn init(verbose: u8) -> Result<Log> {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // Libraries narrate each netlink message and each relocation.
    let ours = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("truepeer", level);
    let (writer, guard) = writer()?;
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(writer)
        .with_ansi(stderr().is_terminal());
    tracing_subscriber::registry().with(ours).with(lines).init();
    Ok(Log {
        writer: Some(guard),
        dropped,
    })
}

/// Its thread has the capabilities of the one that starts it: none.
fn writer() -> Result<(NonBlocking, WorkerGuard)> {
    /// About a megabyte.
    const LINES: usize = 5_000;
    let start = || {
        privileges::no_new()?;
        privileges::keep(Role::Writer)?;
        let lossy = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES);
        Ok(lossy.finish(stderr()))
    };
    let started = thread::scope(|scope| scope.spawn(start).join());
    started.map_err(|_| anyhow!("no thread for the log"))?
}
