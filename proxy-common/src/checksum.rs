//! Arithmetic of the internet checksum (RFC 1071, 1624): sums of 16-bit words with the carry put back
//! in. Byte order doesn't matter as long as it is always the same.

#![expect(
    clippy::cast_possible_truncation,
    reason = "sums are folded into the width that they are cast to"
)]

/// A sum of 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Of two sums.
#[inline(always)]
#[must_use]
pub const fn add(one: u32, other: u32) -> u32 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u32)
}

/// What it does to a sum that `new` words are in the place of `old` ones.
#[inline(always)]
#[must_use]
pub fn change<const N: usize>(old: &[u32; N], new: &[u32; N]) -> u32 {
    let mut sum = 0;
    for at in 0..N {
        sum += u64::from(!old[at]) + u64::from(new[at]);
    }
    add(sum as u32, (sum >> 32) as u32)
}

/// What cutting an odd number of bytes out does to a sum: `removed` is what taking their own sum away
/// does, and `rest` the sum of all that follows. That moves by an odd number of bytes, so the bytes of
/// its words change places.
#[inline(always)]
#[must_use]
pub const fn cut_odd(removed: u32, rest: u16) -> u32 {
    fold(removed) as u32 + (!rest) as u32 + rest.swap_bytes() as u32
}

/// An IPv4 header's.
#[inline(always)]
#[must_use]
pub fn ipv4(words: &[u32; 5]) -> u16 {
    let mut sum = 0;
    for word in words {
        sum = add(sum, *word);
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u32 {
        bytes.chunks(2).fold(0, |sum, pair| {
            let word = u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            add(sum, word.into())
        })
    }

    /// Both forms of zero are the same sum.
    fn is_same(one: u16, other: u16) -> bool {
        one == other || (one.is_multiple_of(0xffff) && other.is_multiple_of(0xffff))
    }

    #[test]
    fn an_ipv4_header_sums_up() {
        // of RFC 1071's kind: any header with its checksum in it sums up to all ones
        let mut words: [u32; 5] = [
            0x0045_1234,
            0x5678_0040,
            0x0000_0640,
            0x0a00_0001,
            0x0a00_0002,
        ];
        words[2] |= u32::from(ipv4(&words)) << 16;
        assert_eq!(ipv4(&words), 0);
    }

    #[test]
    fn other_words_change_a_sum() {
        let (old, new) = ([0xffff_ffff, 0, 0x0102_0304], [1, 0xffff_fffe, 0x8000_0000]);
        let of = |words: [u32; 3]| words.into_iter().fold(0, add);
        let after = fold(add(of(old), change(&old, &new)));
        assert!(is_same(after, fold(of(new))));
    }

    #[test]
    fn cutting_an_odd_header_swaps_what_follows() {
        for header in [&b"abc"[..], b"a", b"hello, world!"] {
            for rest in [&b""[..], b"x", b"payload", b"\xff\xff\x01"] {
                let whole = sum(&[header, rest].concat());
                let removed = u32::from(!fold(sum(header)));
                let in_its_place = fold(sum(&[&[0], rest].concat()));
                let after = fold(add(whole, cut_odd(removed, in_its_place)));
                assert!(is_same(after, fold(sum(rest))), "{header:?} {rest:?}");
            }
        }
    }
}
