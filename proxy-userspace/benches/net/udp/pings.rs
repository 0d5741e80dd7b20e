//! Round trips: on each flow a datagram and its echo, one after the other.

use std::io;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::batch::Batch;
use super::poll::Poll;
use super::trunk::Trunk;
use crate::pings;
use crate::usage::Usage;
use crate::window::{Phase, Spent, Window};

/// An echo that takes longer is taken for lost: far more than any takes that isn't.
const LOST: Duration = Duration::from_millis(500);
/// For the first echoes, as a contender may still be starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was spent, and each round trip in nanoseconds, sorted.
pub fn run(trunks: &mut [Trunk], usage: &Usage, window: Window) -> Result<(Spent, Vec<u64>)> {
    greet(trunks)?;
    let lost = AtomicUsize::new(0);
    let ping = |share: &mut [Trunk], phase: &Phase| ping_all(share, phase, &lost);
    let (spent, times) = pings::shared_out(trunks, ping, usage, window)?;
    let lost = lost.into_inner();
    ensure!(
        lost * 1000 <= times.len(),
        "{lost} datagrams or their echoes were lost, {} were not",
        times.len()
    );
    Ok((spent, times))
}

/// Waits for an answer on each flow.
pub fn greet(trunks: &mut [Trunk]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut batch = Batch::new();
    for trunk in trunks {
        let poll = Poll::of(slice::from_ref(trunk))?;
        let mut silent = vec![true; trunk.clients.len()];
        while silent.contains(&true) {
            ensure!(Instant::now() < deadline, "a flow has got no answer");
            trunk.send(|place| usize::from(silent[place]));
            while silent.contains(&true) && !poll.ready(LOST)?.is_empty() {
                trunk.receive(&mut batch, |place| silent[place] = false)?;
            }
        }
    }
    Ok(())
}

fn ping_all(trunks: &mut [Trunk], phase: &Phase, lost: &AtomicUsize) -> io::Result<Vec<u64>> {
    let poll = Poll::of(trunks)?;
    let mut all: Vec<_> = trunks.iter_mut().map(Waiting::start).collect();
    let (mut batch, mut times) = (Batch::new(), Vec::with_capacity(1 << 18));
    let mut looked = Instant::now();
    while !phase.is_over() {
        for number in poll.ready(LOST)? {
            all[number].go_on(&mut batch, |start| pings::note(&mut times, start, phase))?;
        }
        if looked.elapsed() > LOST {
            looked = Instant::now();
            let again = all.iter_mut().map(Waiting::send_again);
            lost.fetch_add(again.sum(), Relaxed);
        }
    }
    Ok(times)
}

/// A trunk, each of whose clients waits for an answer.
struct Waiting<'a> {
    trunk: &'a mut Trunk,
    since: Vec<Instant>,
    answered: Vec<bool>,
}

impl<'a> Waiting<'a> {
    fn start(trunk: &'a mut Trunk) -> Self {
        let count = trunk.clients.len();
        let since = vec![Instant::now(); count];
        trunk.send(|_| 1);
        Self {
            trunk,
            since,
            answered: vec![false; count],
        }
    }

    /// The next datagram for each that has been answered, once it is told when its last one went.
    fn go_on(&mut self, batch: &mut Batch, mut tell: impl FnMut(Instant)) -> io::Result<()> {
        self.answered.fill(false);
        self.trunk
            .receive(batch, |place| self.answered[place] = true)?;
        for (since, _) in self
            .since
            .iter_mut()
            .zip(&self.answered)
            .filter(|(_, is)| **is)
        {
            tell(*since);
            *since = Instant::now();
        }
        self.trunk.send(|place| usize::from(self.answered[place]));
        Ok(())
    }

    /// Returns how many were lost.
    fn send_again(&mut self) -> usize {
        let is_lost: Vec<_> = self
            .since
            .iter()
            .map(|since| since.elapsed() > LOST)
            .collect();
        for (since, _) in self.since.iter_mut().zip(&is_lost).filter(|(_, is)| **is) {
            *since = Instant::now();
        }
        self.trunk.send(|place| usize::from(is_lost[place]))
    }
}
