//! Says the same thing once per burst, so that a flood can't fill the log.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// After this long a repetition is said again, with how many were left out.
const QUIET: Duration = Duration::from_secs(10);
/// Different things that can be in a burst at one time; a flood of more is cut here.
const MOST: usize = 1024;

/// What is the same thing: the reason, and who caused it.
type Key = (&'static str, IpAddr);

#[derive(Default)]
pub struct Bursts(HashMap<Key, Burst>);

struct Burst {
    said: Instant,
    left_out: u64,
}

impl Bursts {
    /// Whether to say it now, and how many were left out since it was said last.
    pub fn say(&mut self, key: Key, now: Instant) -> Option<u64> {
        if let Some(burst) = self.0.get_mut(&key) {
            if now.duration_since(burst.said) < QUIET {
                burst.left_out += 1;
                return None;
            }
            burst.said = now;
            return Some(std::mem::take(&mut burst.left_out));
        }
        if self.0.len() >= MOST {
            self.0
                .retain(|_, burst| now.duration_since(burst.said) < QUIET);
        }
        if self.0.len() >= MOST {
            return None;
        }
        let burst = Burst {
            said: now,
            left_out: 0,
        };
        self.0.insert(key, burst);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_said_once_and_then_counted() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let key = |last| ("client_loopback", IpAddr::from([198, 51, 100, last]));
        assert_eq!(bursts.say(key(1), start), Some(0));
        assert_eq!(bursts.say(key(1), start), None);
        assert_eq!(bursts.say(key(2), start), Some(0));
        assert_eq!(bursts.say(key(1), start + QUIET), Some(1));
    }

    #[test]
    fn a_flood_of_different_things_is_bounded() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let said = (0..100_000_u32).filter(|n| {
            bursts
                .say(("x", IpAddr::from(n.to_be_bytes())), start)
                .is_some()
        });
        assert_eq!(said.count(), MOST);
        assert_eq!(
            bursts.say(("x", IpAddr::from([9, 9, 9, 9])), start + QUIET),
            Some(0)
        );
    }
}
