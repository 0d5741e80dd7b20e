//! How many connections, or flows of datagrams, a service lets each of its balancers and each client have, and how
//! many new ones in a second.

use crate::{Addr, shares::Share};

/// Of one balancer, or of one client. 0: as many as there are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// At one time.
    pub most: u32,
    pub new_per_second: u32,
}

impl Limit {
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.most != 0 || self.new_per_second != 0
    }

    /// Whether there may be one more beside so many.
    #[must_use]
    pub const fn has_room(&self, count: u32) -> bool {
        self.most == 0 || count < self.most
    }
}

/// A service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub balancer: Limit,
    pub client: Limit,
}

impl Limits {
    /// Where any service has limits, there are some under this number as well, which no service has.
    pub const ANY: u32 = u32::MAX;

    #[must_use]
    pub const fn of(&self, party: Party) -> &Limit {
        match party {
            Party::Balancer => &self.balancer,
            Party::Client => &self.client,
        }
    }

    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.balancer.is_set() || self.client.is_set()
    }

    /// For whom something has to be counted, as [`Party`]'s bits.
    #[must_use]
    pub fn parties(&self) -> u32 {
        let bit = |party| match self.of(party).is_set() {
            true => party.bit(),
            false => 0,
        };
        bit(Party::Balancer) | bit(Party::Client)
    }
}

/// Whose connections are counted.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Balancer = 1,
    Client = 2,
}

impl Party {
    /// The client first: who is refused for himself takes nothing of his balancer's.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Balancer];

    #[must_use]
    pub const fn bit(self) -> u32 {
        self as u32
    }
}

/// The key of a [`Tally`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TallyKey {
    service: u32,
    /// The party, the protocol, and who counts.
    what: u32,
    addr: Addr,
}

impl TallyKey {
    /// With this many at a time, nobody else is counted, nor let in.
    pub const MOST: u32 = 1 << 17;

    const DATAGRAMS: u32 = 4;
    const OWNER_SHIFT: u32 = 8;
    /// Those of direct connections, of datagrams, and all rates.
    pub const PROGRAMS: u32 = 0;

    /// Of connections. Each daemon counts its own: `owner` is its number, or [`PROGRAMS`](Self::PROGRAMS).
    #[must_use]
    pub const fn connections(service: u32, party: Party, addr: Addr, owner: u32) -> Self {
        Self {
            service,
            what: party.bit() | owner << Self::OWNER_SHIFT,
            addr,
        }
    }

    /// Of flows of datagrams.
    #[must_use]
    pub const fn datagrams(service: u32, party: Party, addr: Addr) -> Self {
        Self {
            service,
            what: party.bit() | Self::DATAGRAMS,
            addr,
        }
    }

    /// A daemon's number, from any other one.
    #[must_use]
    pub const fn owner_from(random: u32) -> u32 {
        random >> Self::OWNER_SHIFT | 1
    }

    #[must_use]
    pub const fn owner(&self) -> u32 {
        self.what >> Self::OWNER_SHIFT
    }

    #[must_use]
    pub const fn is_of_datagrams(&self) -> bool {
        self.what & Self::DATAGRAMS != 0
    }
}

/// What is there of one party, and how fast it came.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of connections there is no ring.
    pub share: Share,
    pub rate: Rate,
}

impl Tally {
    /// Whether nothing would be known without it either.
    #[must_use]
    pub const fn is_over(&self, now: u64) -> bool {
        self.share.count == 0 && self.rate.is_full(now)
    }
}

/// A bucket of tokens, of which one is for each new connection: as many come into it in a second as it takes. It is
/// known by the time when it is full (nanoseconds).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    full_at: u64,
}

impl Rate {
    const SECOND: u64 = 1_000_000_000;

    /// What one token takes to come.
    const fn each(new_per_second: u32) -> u64 {
        match Self::SECOND.checked_div(new_per_second as u64) {
            Some(each) => each,
            None => 0,
        }
    }

    /// Whether there is a token at `now`; always where nothing limits it (0).
    #[must_use]
    pub const fn has_token(&self, new_per_second: u32, now: u64) -> bool {
        self.full_at.saturating_sub(now) + Self::each(new_per_second) <= Self::SECOND
    }

    pub const fn take(&mut self, new_per_second: u32, now: u64) {
        let since = match self.full_at > now {
            true => self.full_at,
            false => now,
        };
        self.full_at = since + Self::each(new_per_second);
    }

    /// Nothing came of what took one.
    pub const fn give_back(&mut self, new_per_second: u32) {
        self.full_at = self.full_at.saturating_sub(Self::each(new_per_second));
    }

    #[must_use]
    pub const fn is_full(&self, now: u64) -> bool {
        self.full_at <= now
    }
}

layout! {
    Limit = 8,
    Limits = 16,
    TallyKey = 24,
    Tally = 16,
    Rate = 8,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 77 * Rate::SECOND;

    /// How many of a crowd get in at once.
    fn burst(rate: &mut Rate, new_per_second: u32, now: u64) -> u32 {
        let mut count = 0;
        while rate.has_token(new_per_second, now) {
            rate.take(new_per_second, now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_bucket_takes_a_second_s_tokens() {
        for most in [1, 2, 3, 7, 1000, 30_000] {
            let mut rate = Rate::default();
            assert_eq!(burst(&mut rate, most, NOW), most);
            let next = NOW + Rate::each(most);
            assert!(!rate.has_token(most, NOW + Rate::each(most) / 2), "{most}");
            assert_eq!(burst(&mut rate, most, next), 1);
            // However long nobody comes.
            assert_eq!(burst(&mut rate, most, NOW + 100 * Rate::SECOND), most);
        }
    }

    #[test]
    fn a_token_comes_back() {
        let mut rate = Rate::default();
        burst(&mut rate, 5, NOW);
        rate.give_back(5);
        assert_eq!(burst(&mut rate, 5, NOW), 1);
        let mut unused = Rate::default();
        unused.give_back(5);
        assert_eq!(burst(&mut unused, 5, NOW), 5);
    }

    #[test]
    fn another_limit_holds_from_the_next_one_on() {
        let mut rate = Rate::default();
        burst(&mut rate, 10, NOW);
        assert!(!rate.has_token(1, NOW + Rate::SECOND - 1));
        assert!(rate.has_token(1, NOW + Rate::SECOND));
        assert!(rate.has_token(1000, NOW + Rate::SECOND / 1000));
        assert!(rate.has_token(0, NOW));
    }

    #[test]
    fn what_says_nothing_is_over() {
        let mut tally = Tally::default();
        assert!(tally.is_over(NOW));
        tally.rate.take(1, NOW);
        assert!(!tally.is_over(NOW + Rate::SECOND - 1));
        assert!(tally.is_over(NOW + Rate::SECOND));
        tally.share.count = 1;
        assert!(!tally.is_over(NOW + Rate::SECOND));
    }

    #[test]
    fn limits_tell_whom_they_are_for() {
        let limit = |most, new_per_second| Limit {
            most,
            new_per_second,
        };
        let none = Limits::default();
        assert!(!none.is_set() && none.parties() == 0);
        let limits = Limits {
            client: limit(0, 3),
            ..none
        };
        assert!(limits.is_set());
        assert_eq!(limits.parties(), Party::Client.bit());
        let both = Limits {
            balancer: limit(2, 0),
            ..limits
        };
        assert_eq!(both.parties(), Party::Client.bit() | Party::Balancer.bit());
        assert!(both.of(Party::Balancer).has_room(1) && !both.of(Party::Balancer).has_room(2));
        assert!(both.of(Party::Client).has_room(u32::MAX));
    }

    #[test]
    fn keys_of_one_address_are_apart() {
        let addr = Addr::from_v4(1);
        let owner = TallyKey::owner_from(u32::MAX);
        let keys = Party::BOTH.map(|party| {
            [
                TallyKey::connections(7, party, addr, TallyKey::PROGRAMS),
                TallyKey::connections(7, party, addr, owner),
                TallyKey::datagrams(7, party, addr),
            ]
        });
        let keys = keys.as_flattened();
        for (at, key) in keys.iter().enumerate() {
            assert!(
                keys.iter().skip(at + 1).all(|other| other != key),
                "{key:?}"
            );
        }
        assert_eq!(keys.iter().filter(|key| key.owner() == owner).count(), 2);
        assert_eq!(keys.iter().filter(|key| key.is_of_datagrams()).count(), 2);
        assert_ne!(TallyKey::owner_from(0), TallyKey::PROGRAMS);
    }
}
