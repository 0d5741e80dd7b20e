//! A flood of SYNs that nobody means.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, ensure};

use super::forge::{SYN, SYN_OPTIONS, Segment};
use super::poll;
use super::random::Random;
use super::spray::Spray;

/// Looks at whether it should stop after as many.
const ROUND: u64 = 1024;
/// Ends by itself after as many, whoever has forgotten it.
const MOST: u64 = 20_000_000;

/// Goes on until it is dropped, as fast as one thread can.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    flooding: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Each SYN from one of `sources`, with a port and a number of its own.
    pub fn start(spray: Spray, sources: Vec<IpAddr>, to: SocketAddr, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let flooding = thread::spawn(move || {
            let mut random = Random::new(seed);
            let total = || count.load(Ordering::Relaxed);
            while !stopped.load(Ordering::Relaxed) && total() < MOST {
                let round = spray.send((0..ROUND).map(|_| syn(&mut random, &sources, to)))?;
                count.fetch_add(round, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            stop,
            sent,
            flooding: Some(flooding),
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until `count` more have been sent from now on.
    pub fn wait_more(&self, count: u64) -> Result<()> {
        let before = self.sent();
        poll::until("the flood to go on", || {
            Ok((self.sent() >= before + count).then_some(()))
        })
    }

    /// Ends it; returns how many there were, and fails if it couldn't send.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(flooding) = self.flooding.take() {
            flooding.join().expect("flooding doesn't panic")?;
        }
        ensure!(self.sent() > 0, "the flood sent nothing");
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn syn(random: &mut Random, sources: &[IpAddr], to: SocketAddr) -> Segment<'static> {
    const FIRST_PORT: u16 = 1024;
    let [high, low, ..] = random.word().to_be_bytes();
    let port = u16::from_be_bytes([high, low]).max(FIRST_PORT);
    Segment {
        number: random.word(),
        flags: SYN,
        window: 64_240,
        options: SYN_OPTIONS,
        ..Segment::between(SocketAddr::new(*random.pick(sources), port), to)
    }
}
