//! What happened to a service's connections, in numbers.

use std::{
    collections::BTreeMap,
    iter::Sum,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::Serialize;
use serde_json::{Value, json};

#[derive(Default)]
pub struct Counters {
    accepted: AtomicU64,
    taken_over: AtomicU64,
    opened: AtomicU64,
    unspoofed: AtomicU64,
    port_busy: AtomicU64,
    accept_failed: AtomicU64,
    ended: Mutex<BTreeMap<&'static str, u64>>,
}

/// Connections since the start.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    pub accepted: u64,
    /// Direct ones that the daemon before this one had left open.
    pub taken_over: u64,
    /// Accepted or taken over, and not ended yet.
    pub open: u64,
    /// Those that the application accepted.
    pub opened: u64,
    /// Those of them that came from this host's own address.
    pub unspoofed: u64,
    /// Those that came from another port than the client's.
    pub port_busy: u64,
    pub accept_failed: u64,
    /// By how they ended.
    pub ended: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// What they say of a service of UDP, which accepts nothing.
    pub fn of_datagrams(self) -> Value {
        json!({ "ended": self.ended })
    }
}

impl Counters {
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub fn taken_over(&self) {
        self.taken_over.fetch_add(1, Relaxed);
    }

    pub fn opened(&self, spoofed: bool) {
        self.opened.fetch_add(1, Relaxed);
        if !spoofed {
            self.unspoofed.fetch_add(1, Relaxed);
        }
    }

    pub fn port_busy(&self) {
        self.port_busy.fetch_add(1, Relaxed);
    }

    pub fn accept_failed(&self) {
        self.accept_failed.fetch_add(1, Relaxed);
    }

    pub fn ended(&self, how: &'static str) {
        *self.lock_ended().entry(how).or_default() += 1;
    }

    pub fn read(&self) -> Counts {
        let ended = self.lock_ended().clone();
        let accepted = self.accepted.load(Relaxed);
        let taken_over = self.taken_over.load(Relaxed);
        Counts {
            accepted,
            taken_over,
            open: (accepted + taken_over).saturating_sub(ended.values().sum()),
            opened: self.opened.load(Relaxed),
            unspoofed: self.unspoofed.load(Relaxed),
            port_busy: self.port_busy.load(Relaxed),
            accept_failed: self.accept_failed.load(Relaxed),
            ended,
        }
    }

    /// A panic elsewhere can't leave counts in a state that matters.
    fn lock_ended(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut total, one| {
            total.accepted += one.accepted;
            total.taken_over += one.taken_over;
            total.open += one.open;
            total.opened += one.opened;
            total.unspoofed += one.unspoofed;
            total.port_busy += one.port_busy;
            total.accept_failed += one.accept_failed;
            for (how, count) in one.ended {
                *total.ended.entry(how).or_default() += count;
            }
            total
        })
    }
}
