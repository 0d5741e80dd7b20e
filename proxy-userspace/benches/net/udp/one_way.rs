//! As many datagrams as go through without loss.
//!
//! Each flow has its share of so many on their way at most, and the app, which is of this process, says which have
//! arrived. So a sender is as fast as what it sends to, however fast that is at the moment, and nobody
//! has to guess a rate. The more are on their way, the more a contender can do at once; but whoever
//! loses some has to do with fewer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::app::Arrivals;
use super::trunk::Trunk;
use crate::app::App;
use crate::pings::THREADS;
use crate::site::Site;
use crate::usage::Usage;
use crate::window::{Phase, Spent, Window};

/// On the way, of all flows together, and of the most flows at least one of each.
const AHEAD: [usize; 4] = [512, 256, 128, 64];
/// Of what was sent.
const LOSS: f64 = 0.001;
/// What takes longer is lost.
const LOST: Duration = Duration::from_millis(200);
/// While none may be sent: short beside what it takes for those that are on their way to arrive.
const PAUSE: Duration = Duration::from_micros(20);
/// Without any that arrives: none is on its way any more.
const SILENCE: Duration = Duration::from_millis(50);

/// What is counted is datagrams that have arrived; nothing where some are lost however few are on their way.
pub fn run(site: &Site, trunks: &mut [Trunk], app: &App, window: Window) -> Result<Option<Spent>> {
    let usage = site.usage();
    let flows: usize = trunks.iter().map(|trunk| trunk.clients.len()).sum();
    for ahead in AHEAD.map(|all| all.div_ceil(flows)) {
        let (spent, loss) = once(trunks, ahead, app.arrivals(), (&usage, window))?;
        if loss <= LOSS {
            return Ok(Some(spent));
        }
        let (name, percent) = (site.kind.name(), loss * 100.0);
        eprintln!("{name} loses {percent:.2} % with {ahead} of each flow on their way");
    }
    Ok(None)
}

/// And what share was lost.
fn once(
    trunks: &mut [Trunk],
    ahead: usize,
    arrivals: &Arrivals,
    (usage, window): (&Usage, Window),
) -> Result<(Spent, f64)> {
    let (phase, sent) = (Phase::default(), AtomicU64::new(0));
    let before = arrivals.datagrams();
    let share = trunks.len().div_ceil(THREADS);
    let spent = thread::scope(|scope| {
        for share in trunks.chunks_mut(share) {
            scope.spawn(|| sent.fetch_add(push(share, ahead, arrivals, &phase), Relaxed));
        }
        window.measure(&phase, usage, || arrivals.datagrams())
    })?;
    settle(arrivals);
    let (sent, arrived) = (sent.into_inner(), arrivals.datagrams() - before);
    Ok((spent, sent.saturating_sub(arrived) as f64 / sent as f64))
}

fn push(trunks: &mut [Trunk], ahead: usize, arrivals: &Arrivals, phase: &Phase) -> u64 {
    let mut all: Vec<_> = trunks
        .iter_mut()
        .map(|trunk| Pushing::start(trunk, arrivals))
        .collect();
    let mut sent = 0;
    while !phase.is_over() {
        let counts = all.iter_mut().map(|one| one.go_on(ahead, arrivals));
        let count: usize = counts.sum();
        sent += count as u64;
        if count == 0 {
            all.iter_mut().for_each(Pushing::give_up);
            // Looking all the time would take the time of those who are waited for.
            thread::sleep(PAUSE);
        }
    }
    sent
}

/// A trunk, and what is known of its clients' datagrams.
struct Pushing<'a> {
    trunk: &'a mut Trunk,
    /// Up to which number they have arrived, or are lost.
    done: Vec<u64>,
    /// When the last one was sent.
    since: Vec<Instant>,
    due: Vec<usize>,
}

impl<'a> Pushing<'a> {
    /// What earlier loads have left is no arrival of this one's.
    fn start(trunk: &'a mut Trunk, arrivals: &Arrivals) -> Self {
        for client in &mut trunk.clients {
            client.number = client.number.max(arrivals.last(client.flow));
        }
        let done: Vec<_> = trunk.clients.iter().map(|client| client.number).collect();
        Self {
            since: vec![Instant::now(); done.len()],
            due: vec![0; done.len()],
            done,
            trunk,
        }
    }

    /// More of each client that may. Returns how many there were.
    fn go_on(&mut self, ahead: usize, arrivals: &Arrivals) -> usize {
        let now = Instant::now();
        for (place, client) in self.trunk.clients.iter().enumerate() {
            self.done[place] = self.done[place].max(arrivals.last(client.flow));
            let on_the_way = client.number.saturating_sub(self.done[place]);
            self.due[place] = ahead.saturating_sub(usize::try_from(on_the_way).unwrap_or(ahead));
            if self.due[place] > 0 {
                self.since[place] = now;
            }
        }
        self.trunk.send(|place| self.due[place])
    }

    fn give_up(&mut self) {
        for (place, client) in self.trunk.clients.iter().enumerate() {
            if self.since[place].elapsed() > LOST {
                self.done[place] = client.number;
            }
        }
    }
}

/// Waits until nothing more arrives.
fn settle(arrivals: &Arrivals) {
    let mut last = None;
    while last != Some(arrivals.datagrams()) {
        last = Some(arrivals.datagrams());
        thread::sleep(SILENCE);
    }
}
