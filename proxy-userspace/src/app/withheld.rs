//! Balancers that shake hands and keep their header to themselves. On the direct path such a connection
//! is nowhere: only the programs' counters tell.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use proxy_common::Counter;

/// What came of a handshake.
const SETTLED: [Counter; 12] = [
    Counter::DirectOpened,
    Counter::DirectSilent,
    Counter::DirectLate,
    Counter::ToDaemonSplit,
    Counter::ToDaemonHeader,
    Counter::ToDaemonFamily,
    Counter::ToDaemonClient,
    Counter::ToDaemonDenied,
    Counter::ToDaemonBusy,
    Counter::ToDaemonSilent,
    Counter::ToDaemonListener,
    Counter::ToDaemonLimit,
];

/// Handshakes so far, as of some moments.
pub struct Withheld {
    /// After this long a header is late.
    patience: Duration,
    seen: VecDeque<(Instant, u64)>,
    /// Those that were told.
    told: u64,
}

impl Withheld {
    pub const fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub const fn new(patience: Duration) -> Self {
        Self {
            patience,
            seen: VecDeque::new(),
            told: 0,
        }
    }

    /// How many more there are that nothing has come of in time.
    pub fn look(&mut self, now: Instant, counters: &BTreeMap<&'static str, u64>) -> u64 {
        let count = |counter: Counter| counters.get(counter.name()).copied().unwrap_or_default();
        self.seen.push_back((now, count(Counter::DirectHandshake)));
        let mut due = None;
        while let Some((then, handshakes)) = self.seen.front()
            && now.duration_since(*then) >= self.patience
        {
            due = Some(*handshakes);
            self.seen.pop_front();
        }
        let settled: u64 = SETTLED.into_iter().map(count).sum();
        let withheld = due.map_or(0, |handshakes| handshakes.saturating_sub(settled));
        let more = withheld.saturating_sub(self.told);
        self.told += more;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_unsettled_is_told_and_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let counters = |handshakes, opened, silent| {
            BTreeMap::from([
                (Counter::DirectHandshake.name(), handshakes),
                (Counter::DirectOpened.name(), opened),
                (Counter::DirectSilent.name(), silent),
            ])
        };
        let mut withheld = Withheld::new(Duration::from_secs(5));
        assert_eq!(withheld.look(at(0), &counters(3, 1, 0)), 0);
        // a slow one, and a health check
        assert_eq!(withheld.look(at(4), &counters(4, 2, 1)), 0);
        assert_eq!(withheld.look(at(5), &counters(4, 2, 1)), 0);
        assert_eq!(withheld.look(at(9), &counters(4, 2, 1)), 1);
        assert_eq!(withheld.look(at(20), &counters(4, 2, 1)), 0);
        assert_eq!(withheld.look(at(21), &counters(9, 2, 1)), 0);
        assert_eq!(withheld.look(at(26), &counters(9, 2, 1)), 5);
    }
}
