//! Which sockets of balancers have spoken for somebody not long ago, where only the first datagram says for
//! whom. Whom they speak for may be forgotten sooner, as there is less room for that.

#![expect(clippy::cast_possible_truncation, reason = "halves of a word")]

use crate::{
    cookie::{Key, siphash},
    datagram::MAX_DATAGRAM_FLOWS,
    flow::Tuple,
};

/// Of the map. With more, fewer sockets share a place, where the last one is remembered.
pub const LEN: u32 = 1 << BITS;
const BITS: u32 = MAX_DATAGRAM_FLOWS.trailing_zeros() + 2;

/// A socket's place, and what tells it from others there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken(u64);

impl Spoken {
    /// By the tuple of the socket's datagrams. Nobody without the key can choose whose place he gets.
    #[inline(always)]
    #[must_use]
    pub fn new(key: &Key, datagram: &Tuple) -> Self {
        let [source, destination] = datagram.addresses();
        let ([a, b, c, d], [e, f, g, h]) = (source.words(), destination.words());
        let [sport, dport] = datagram.ports();
        let pair = |high: u32, low: u32| (high as u64) << 32 | low as u64;
        let ports = pair(sport.into(), dport.into());
        let words = [pair(a, b), pair(c, d), pair(e, f), pair(g, h), ports];
        Self(siphash(key, &words))
    }

    #[inline(always)]
    #[must_use]
    pub const fn place(self) -> u32 {
        (self.0 >> (u64::BITS - BITS)) as u32
    }

    /// What the place has once it has spoken.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, now: u32) -> u64 {
        self.0 << 32 | now as u64
    }

    /// Whether a word is of a time not long ago.
    #[inline(always)]
    #[must_use]
    pub const fn is_in(self, word: u64, now: u32, close_after: u32) -> bool {
        let last = word as u32;
        last != 0 && word >> 32 == self.0 as u32 as u64 && now.saturating_sub(last) <= close_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, Endpoint};

    #[test]
    fn sockets_are_told_apart_until_they_are_silent() {
        let service = Endpoint::new(Addr::from_v4(7), 443);
        let of = |port| {
            let balancer = Endpoint::new(Addr::from_v4(9), port);
            Spoken::new(&[1, 2], &Tuple::new(balancer, service))
        };
        let one = of(1000);
        let word = one.word(100);
        assert!(one.place() < LEN && one.is_in(word, 100, 60) && one.is_in(word, 160, 60));
        assert!(!one.is_in(word, 161, 60) && !one.is_in(0, 30, 60));
        for port in 1001..u16::MAX {
            assert!(!of(port).is_in(word, 100, 60), "{port}");
        }
        let mut hits = [0_u8; 1 << 9];
        for port in 1..u16::MAX {
            hits[(of(port).place() >> (BITS - 9)) as usize] += 1;
        }
        assert!(
            hits.iter().all(|hits| (64..=192).contains(hits)),
            "{hits:?}"
        );
    }
}
