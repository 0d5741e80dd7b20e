//! Says the same thing once per burst, so that a flood can't fill the log.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

/// After this long a repetition is said again, with how many were left out.
const QUIET: Duration = Duration::from_secs(10);
/// Different things that are said in this time. More balancers with more reasons than this are a
/// flood, and its log doesn't get better by being longer.
const MOST: usize = 100;

/// What is the same thing: what is said, and who caused it.
type Key = (&'static str, IpAddr);

#[derive(Default)]
pub struct Bursts {
    said: HashMap<Key, Burst>,
    /// For want of room in `said`.
    others: u64,
}

struct Burst {
    said: Instant,
    left_out: u64,
}

/// What hasn't been said since something was said last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    same: u64,
    others: u64,
}

impl Bursts {
    /// Whether to say it now, and what to add.
    pub fn say(&mut self, key: Key, now: Instant) -> Option<LeftOut> {
        if let Some(burst) = self.said.get_mut(&key) {
            if now.duration_since(burst.said) < QUIET {
                burst.left_out += 1;
                return None;
            }
            burst.said = now;
            let same = std::mem::take(&mut burst.left_out);
            return Some(self.with_others(same));
        }
        if self.said.len() >= MOST {
            self.forget(now);
        }
        if self.said.len() >= MOST {
            self.others += 1;
            return None;
        }
        let burst = Burst {
            said: now,
            left_out: 0,
        };
        self.said.insert(key, burst);
        Some(self.with_others(0))
    }

    fn with_others(&mut self, same: u64) -> LeftOut {
        let others = std::mem::take(&mut self.others);
        LeftOut { same, others }
    }

    /// Makes room. What these left out is still owed to the log.
    fn forget(&mut self, now: Instant) {
        let over = |burst: &Burst| now.duration_since(burst.said) >= QUIET;
        let others = &mut self.others;
        self.said.retain(|_, burst| {
            if over(burst) {
                *others += burst.left_out;
            }
            !over(burst)
        });
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.same > 0 {
            write!(f, " ({} more like this since it was last said)", self.same)?;
        }
        if self.others > 0 {
            let others = self.others;
            write!(
                f,
                " ({others} more of other balancers or for other reasons were not said)"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: LeftOut = LeftOut { same: 0, others: 0 };

    fn balancer(number: u32) -> IpAddr {
        number.to_be_bytes().into()
    }

    #[test]
    fn a_burst_is_said_once_and_then_counted() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let key = |number| ("client_loopback", balancer(number));
        assert_eq!(bursts.say(key(1), start), Some(NOTHING));
        assert_eq!(bursts.say(key(1), start), None);
        assert_eq!(bursts.say(key(2), start), Some(NOTHING));
        let later = bursts.say(key(1), start + QUIET);
        assert_eq!(later, Some(LeftOut { same: 1, others: 0 }));
    }

    #[test]
    fn a_flood_of_balancers_and_reasons_is_bounded_and_accounted_for() {
        const FLOOD: u32 = 10_000;
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let mut said = 0;
        for number in 0..FLOOD {
            for reason in ["bad_signature", "header_cut"] {
                said += u64::from(bursts.say((reason, balancer(number)), start).is_some());
            }
        }
        assert_eq!(said, MOST as u64);
        // one that was said already has its own count
        assert_eq!(bursts.say(("bad_signature", balancer(0)), start), None);
        let later = bursts.say(("bad_signature", balancer(FLOOD)), start + QUIET);
        let others = 2 * u64::from(FLOOD) + 1 - said;
        assert_eq!(later, Some(LeftOut { same: 0, others }));
    }
}
