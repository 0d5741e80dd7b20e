//! Which sockets of balancers have spoken for somebody not long ago, where only the first datagram says for
//! whom. Whom they speak for may be forgotten sooner, as there is less room for that.

#![expect(clippy::cast_possible_truncation, reason = "halves of a word")]

use crate::{
    cookie::{Key, siphash},
    datagram::MAX_DATAGRAM_FLOWS,
    first::Speaker,
};

/// Of the map: room for four times as many sockets as there are flows.
pub const LEN: u32 = 1 << BITS;
const BITS: u32 = MAX_DATAGRAM_FLOWS.trailing_zeros() + 2 - SOCKETS.trailing_zeros();
/// A word for each socket. With so many to a place, one that has no room left is next to none.
pub type Place = [u64; SOCKETS];
pub const SOCKETS: usize = 16;
/// Of a word, instead of a socket's: there were more than there is room for.
const SEVERAL: u32 = 0;

/// A socket's place, and what tells it from others there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken(u64);

impl Spoken {
    /// Nobody without the key can choose whose place he gets.
    #[inline(always)]
    #[must_use]
    pub fn new(key: &Key, speaker: &Speaker) -> Self {
        let datagram = speaker.tuple();
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

    /// Not that of several.
    const fn own(self) -> u32 {
        self.0 as u32 | 1
    }

    /// Whether it has spoken at a time that isn't over. Where there are several, nobody can tell, and it may have.
    /// `word_at` gives the words of its place, below [`SOCKETS`].
    #[inline(always)]
    #[must_use]
    pub fn is_in(self, word_at: impl Fn(usize) -> u64, now: u32) -> bool {
        (0..SOCKETS).any(|at| {
            let (whose, until) = halves(word_at(at));
            is_live(until, now) && (whose == self.own() || whose == SEVERAL)
        })
    }

    /// Which word of its place is to become what, so that it has spoken until then.
    #[inline(always)]
    #[must_use]
    pub fn noted(self, word_at: impl Fn(usize) -> u64, now: u32, until: u32) -> (usize, u64) {
        // Of two at once by two CPUs, one is lost if they choose the same.
        let start = (self.0 >> u32::BITS) as usize % SOCKETS;
        let (mut at, mut is_free) = (start, false);
        for more in 0..SOCKETS {
            let one = (start + more) % SOCKETS;
            let (whose, lives_until) = halves(word_at(one));
            let is_live = is_live(lives_until, now);
            if is_live && whose == self.own() {
                return (one, word(whose, later(lives_until, until)));
            }
            if !is_live && !is_free {
                (at, is_free) = (one, true);
            }
        }
        if is_free {
            return (at, word(self.own(), until));
        }
        (at, word(SEVERAL, later(halves(word_at(at)).1, until)))
    }
}

#[inline(always)]
const fn word(whose: u32, until: u32) -> u64 {
    (whose as u64) << 32 | until as u64
}

/// Whose a word is, and until when.
#[inline(always)]
const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[inline(always)]
const fn is_live(until: u32, now: u32) -> bool {
    until != 0 && now <= until
}

#[inline(always)]
const fn later(one: u32, other: u32) -> u32 {
    if one > other { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, Endpoint, flow::Tuple};

    fn of(port: u16) -> Spoken {
        by(9, port)
    }

    fn by(balancer: u32, port: u16) -> Spoken {
        let service = Endpoint::new(Addr::from_v4(7), 443);
        let balancer = Endpoint::new(Addr::from_v4(balancer), port);
        Spoken::new(&[1, 2], &Speaker::new(&Tuple::new(balancer, service), 0))
    }

    fn note(place: &mut Place, one: Spoken, now: u32, until: u32) {
        let (at, word) = one.noted(|at| place[at], now, until);
        place[at] = word;
    }

    fn is_in(one: Spoken, place: &Place, now: u32) -> bool {
        one.is_in(|at| place[at], now)
    }

    #[test]
    fn sockets_are_told_apart_until_they_are_silent() {
        let one = of(1000);
        let mut place = Place::default();
        assert!(one.place() < LEN && !is_in(one, &place, 0));
        note(&mut place, one, 100, 160);
        assert!(is_in(one, &place, 100) && is_in(one, &place, 160) && !is_in(one, &place, 161));
        for port in 1001..u16::MAX {
            assert!(!is_in(of(port), &place, 100), "{port}");
        }
        note(&mut place, one, 150, 155);
        assert!(is_in(one, &place, 160), "no sooner than said before");
        let mut hits = [0_u8; 1 << 9];
        for port in 1..u16::MAX {
            hits[(of(port).place() >> (BITS - 9)) as usize] += 1;
        }
        assert!(
            hits.iter().all(|hits| (64..=192).contains(hits)),
            "{hits:?}"
        );
    }

    #[test]
    fn who_gets_no_room_is_one_of_several() {
        let mut place = Place::default();
        let sockets: [_; SOCKETS] = core::array::from_fn(|at| of(at as u16));
        for one in &sockets {
            note(&mut place, *one, 100, 160);
        }
        let all_are_in = |place: &Place, now| sockets.iter().all(|one| is_in(*one, place, now));
        let [more, other] = [1001, 1002].map(of);
        assert!(all_are_in(&place, 160) && !is_in(more, &place, 100));
        note(&mut place, more, 101, 120);
        // Whoever has made room has spoken still, as long as it would have.
        assert!(all_are_in(&place, 160) && is_in(more, &place, 160) && is_in(other, &place, 160));
        assert!(!sockets.iter().any(|one| is_in(*one, &place, 161)) && !is_in(other, &place, 161));
        note(&mut place, other, 161, 200);
        assert!(is_in(other, &place, 200) && !is_in(more, &place, 161));
    }

    #[test]
    fn a_hundred_thousand_find_room() {
        let mut begun = [0; LEN as usize];
        for one in (1..=2).flat_map(|balancer| (1..=50_000).map(move |port| by(balancer, port))) {
            begun[one.place() as usize] += 1;
        }
        assert!(begun.iter().all(|begun| *begun <= SOCKETS));
    }
}
