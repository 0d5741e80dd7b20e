//! When to measure: after a warm-up, until the time is over.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::usage::Usage;

#[derive(Clone, Copy)]
pub struct Window {
    pub warm: Duration,
    pub run: Duration,
}

/// What the load generators look at.
#[derive(Default)]
pub struct Phase(AtomicU8);

/// What was used while the load ran.
pub struct Spent {
    pub seconds: f64,
    /// Of the proxy's processes; none without a proxy.
    pub proxy: Option<f64>,
    /// Of the whole machine, load generators and interrupts included.
    pub machine: f64,
    /// How far the load's own count went meanwhile.
    pub count: u64,
}

impl Phase {
    const MEASURING: u8 = 1;
    const OVER: u8 = 2;

    pub fn is_measured(&self) -> bool {
        self.0.load(Relaxed) == Self::MEASURING
    }

    pub fn is_over(&self) -> bool {
        self.0.load(Relaxed) == Self::OVER
    }

    pub fn end(&self) {
        self.0.store(Self::OVER, Relaxed);
    }
}

impl Window {
    /// Lets a load that runs already go through the phases.
    pub fn measure(self, phase: &Phase, usage: &Usage, count: impl Fn() -> u64) -> Result<Spent> {
        thread::sleep(self.warm);
        phase.0.store(Phase::MEASURING, Relaxed);
        let (start, before, first) = (Instant::now(), usage.cpu()?, count());
        thread::sleep(self.run);
        let (seconds, last) = (start.elapsed().as_secs_f64(), count());
        let after = usage.cpu()?;
        phase.end();
        Ok(Spent {
            seconds,
            proxy: after.proxy.zip(before.proxy).map(|(a, b)| a - b),
            machine: after.machine - before.machine,
            count: last - first,
        })
    }
}
