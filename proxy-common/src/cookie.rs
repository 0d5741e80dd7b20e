//! SYN cookies: what a SYN said and when it came, in the numbers of its answer, with a MAC that only
//! this instance can make.
//!
//! The initial sequence number has 9 bits of options, the timestamp 6 bits of time, and both
//! together 49 bits of MAC over the tuple, the service and all of this. The balancer's own initial
//! sequence number is hidden in the timestamp, so that the first segment is told from later ones. A SYN without timestamps has too few bits for a MAC: the programs remember it instead.

#![expect(clippy::cast_possible_truncation, reason = "halves of a word")]

use crate::flow::Tuple;

/// 128 random bits, made at start.
pub type Key = [u64; 2];

/// What TCP options agree on, as far as a segment later than the SYN has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Bytes; rounded down to one of [`MSS`].
    pub mss: u16,
    /// The balancer's window scale, if it has any.
    pub scale: Option<u8>,
    pub sack: bool,
    pub timestamps: bool,
}

/// What a segment may have, by the 3 bits that a cookie has for it.
pub const MSS: [u16; 8] = [536, 1220, 1300, 1380, 1440, 1460, 4036, 8960];

impl Agreed {
    pub const BITS: u32 = 9;
    const MASK: u32 = (1 << Self::BITS) - 1;
    const NO_SCALE: u32 = 15;
    const SACK: u32 = 1 << 4;
    const TIMESTAMPS: u32 = 1 << 5;
    const MSS_SHIFT: u32 = 6;
    /// RFC 7323: a larger one means this.
    const MAX_SCALE: u8 = 14;

    #[inline(always)]
    #[must_use]
    pub fn to_bits(self) -> u32 {
        let mut mss = 0;
        for (index, at_least) in (0..).zip(MSS) {
            if self.mss >= at_least {
                mss = index;
            }
        }
        let scale = match self.scale {
            Some(scale) if scale > Self::MAX_SCALE => Self::MAX_SCALE as u32,
            Some(scale) => scale as u32,
            None => Self::NO_SCALE,
        };
        let mut bits = mss << Self::MSS_SHIFT | scale;
        if self.sack {
            bits |= Self::SACK;
        }
        if self.timestamps {
            bits |= Self::TIMESTAMPS;
        }
        bits
    }

    /// Of the initial sequence number that they are in.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        let scale = bits & 15;
        Self {
            // No index out of bounds: the compiler sees that 3 bits are left.
            mss: MSS[(bits >> Self::MSS_SHIFT & 7) as usize],
            scale: if scale == Self::NO_SCALE {
                None
            } else {
                Some(scale as u8)
            },
            sack: bits & Self::SACK != 0,
            timestamps: bits & Self::TIMESTAMPS != 0,
        }
    }
}

/// The numbers of an answer to a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub sequence: u32,
    pub timestamp: u32,
}

/// Of an answer that a segment acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Not by us.
    Others,
    /// By us, but the segment isn't the first one behind the SYN.
    Later,
    /// By us, so many ticks ago.
    Ours { age: u32 },
}

/// Cookies that a connection has been made of. One stays valid for longer than its connection may last,
/// and a network may deliver a first segment twice.
pub mod spent {
    use super::Agreed;

    /// Of the map. With more, fewer share a place, where the last one is remembered.
    pub const LEN: u32 = 1 << BITS;
    const BITS: u32 = 18;

    /// `ours` and `theirs` are the numbers of the first byte in each direction.
    #[inline(always)]
    #[must_use]
    pub const fn word(ours: u32, theirs: u32) -> u64 {
        (ours as u64) << 32 | theirs as u64
    }

    /// By bits of the MAC.
    #[inline(always)]
    #[must_use]
    pub const fn place(ours: u32) -> u32 {
        ours >> Agreed::BITS & (LEN - 1)
    }
}

/// Odd, so that no two sequence numbers become one, and neighbours differ in their upper bits.
const SPREAD: u32 = 0x9e37_79b1;

const TICK_BITS: u32 = 6;
const TICK_MASK: u32 = (1 << TICK_BITS) - 1;
/// Ticks that an answer can be told from another one by.
pub const MAX_AGE: u32 = TICK_MASK;

/// What an answer is for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub tuple: &'a Tuple,
    pub service: u32,
    /// The balancer's initial sequence number.
    pub sequence: u32,
}

impl Asked<'_> {
    /// `tick` counts some unit of time; `mac` is [`mac`](Self::mac) with a key.
    #[inline(always)]
    #[must_use]
    pub fn numbers(
        &self,
        mac: impl FnOnce(&Self, u32, u32) -> u64,
        options: u32,
        tick: u32,
    ) -> Numbers {
        let mac = mac(self, options, tick);
        // What isn't seen of the MAC hides what is added, and each number changes all of its bits.
        let secret = (mac >> 32) as u32 ^ self.sequence.wrapping_mul(SPREAD);
        Numbers {
            sequence: (mac as u32) << Agreed::BITS | options & Agreed::MASK,
            timestamp: secret & !TICK_MASK | tick & TICK_MASK,
        }
    }

    /// What the answer was that a segment acknowledges and echoes.
    #[inline(always)]
    #[must_use]
    pub fn judge(
        &self,
        mac: impl FnOnce(&Self, u32, u32) -> u64,
        answer: Numbers,
        tick: u32,
    ) -> Answered {
        let age = tick.wrapping_sub(answer.timestamp) & TICK_MASK;
        let expected = self.numbers(mac, answer.sequence, tick.wrapping_sub(age));
        if expected.sequence != answer.sequence {
            Answered::Others
        } else if expected.timestamp != answer.timestamp {
            Answered::Later
        } else {
            Answered::Ours { age }
        }
    }

    /// Of all that an answer is for, but the balancer's number.
    #[inline(always)]
    #[must_use]
    pub fn mac(&self, key: &Key, options: u32, tick: u32) -> u64 {
        let [source, destination] = self.tuple.addresses();
        let ([a, b, c, d], [e, f, g, h]) = (source.words(), destination.words());
        let [sport, dport] = self.tuple.ports();
        let pair = |high: u32, low: u32| (high as u64) << 32 | low as u64;
        let ports = (sport as u32) << 16 | dport as u32;
        siphash(
            key,
            &[
                pair(a, b),
                pair(c, d),
                pair(e, f),
                pair(g, h),
                pair(ports, self.service),
                pair(options & Agreed::MASK, tick),
            ],
        )
    }
}

/// SipHash-2-4 of whole words.
#[inline(always)]
pub(crate) fn siphash<const N: usize>(key: &Key, words: &[u64; N]) -> u64 {
    let [k0, k1] = *key;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let last = ((N as u64) * 8) << 56;
    for &word in words {
        v = absorb(v, word);
    }
    v = absorb(v, last);
    v[2] ^= 0xff;
    for _ in 0..4 {
        v = round(v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn absorb(mut v: [u64; 4], word: u64) -> [u64; 4] {
    v[3] ^= word;
    v = round(round(v));
    v[0] ^= word;
    v
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, Endpoint};

    const KEY: Key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    fn by(key: &Key) -> impl Fn(&Asked<'_>, u32, u32) -> u64 {
        |asked, options, tick| asked.mac(key, options, tick)
    }

    fn tuple() -> Tuple {
        let end = |word, port| Endpoint::new(Addr::from_v4(word), port);
        Tuple::new(end(1, 40_000), end(2, 2222))
    }

    /// Of the paper's reference implementation: 8 and 16 bytes counting up from 0.
    #[test]
    fn siphash_is_what_the_paper_says() {
        assert_eq!(siphash(&KEY, &[]), 0x726f_db47_dd0e_0e31);
        let one = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(siphash(&KEY, &[one]), 0x93f5_f579_9a93_2462);
        let two = u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(siphash(&KEY, &[one, two]), 0x3f2a_cc7f_57c2_9bdb);
    }

    #[test]
    fn an_answer_is_known_again_until_it_is_old() {
        let tuple = tuple();
        let asked = Asked {
            tuple: &tuple,
            service: 7,
            sequence: 1000,
        };
        for tick in [0, 1, 62, 63, 64, 1 << 20, u32::MAX] {
            let answer = asked.numbers(by(&KEY), 0x1a5, tick);
            assert_eq!(answer.sequence & 0x1ff, 0x1a5);
            for age in 0..=MAX_AGE {
                let judged = asked.judge(by(&KEY), answer, tick.wrapping_add(age));
                assert_eq!(judged, Answered::Ours { age });
            }
            let late = tick.wrapping_add(MAX_AGE + 1);
            assert_eq!(asked.judge(by(&KEY), answer, late), Answered::Others);
        }
    }

    #[test]
    fn later_segments_are_told_from_the_first() {
        let tuple = tuple();
        let asked = |sequence| Asked {
            tuple: &tuple,
            service: 7,
            sequence,
        };
        let answer = asked(1000).numbers(by(&KEY), 0, 5);
        for more in 1..100_000 {
            let judged = asked(1000 + more).judge(by(&KEY), answer, 5);
            assert_eq!(judged, Answered::Later, "{more}");
        }
    }

    #[test]
    fn anything_else_is_no_answer() {
        let (tuple, other) = (tuple(), tuple().reversed());
        let asked = Asked {
            tuple: &tuple,
            service: 7,
            sequence: 1000,
        };
        let answer = asked.numbers(by(&KEY), 0, 5);
        let of = |asked: Asked<'_>, key: &Key, answer| asked.judge(by(key), answer, 5);
        assert_eq!(of(asked, &KEY, answer), Answered::Ours { age: 0 });
        assert_eq!(of(asked, &[1, 2], answer), Answered::Others);
        let service = Asked {
            service: 8,
            ..asked
        };
        assert_eq!(of(service, &KEY, answer), Answered::Others);
        let reversed = Asked {
            tuple: &other,
            ..asked
        };
        assert_eq!(of(reversed, &KEY, answer), Answered::Others);
        for bit in 0..u32::BITS {
            let Numbers {
                sequence,
                timestamp,
            } = answer;
            let sequence = sequence ^ 1 << bit;
            let judged = of(asked, &KEY, Numbers { sequence, ..answer });
            assert_eq!(judged, Answered::Others, "{bit}");
            let timestamp = timestamp ^ 1 << bit;
            let answer = Numbers {
                timestamp,
                ..answer
            };
            assert!(
                !matches!(of(asked, &KEY, answer), Answered::Ours { .. }),
                "{bit}"
            );
        }
    }

    #[test]
    fn options_come_back() {
        for mss in MSS {
            for scale in (0..=14).map(Some).chain([None]) {
                for (sack, timestamps) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    let agreed = Agreed {
                        mss,
                        scale,
                        sack,
                        timestamps,
                    };
                    assert_eq!(Agreed::from_bits(agreed.to_bits()), agreed);
                }
            }
        }
        let odd = Agreed {
            mss: 1459,
            scale: Some(200),
            sack: false,
            timestamps: false,
        };
        let back = Agreed::from_bits(odd.to_bits());
        assert_eq!((back.mss, back.scale), (1440, Some(14)));
    }
}
