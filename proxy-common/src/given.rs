//! Which connections were the daemon's not long ago: its end of one may be in TIME_WAIT, which the
//! kernel's own TCP knows how to follow.

use crate::flow::Tuple;

/// Longer than the kernel stays in TIME_WAIT, in seconds of the flows' clock.
pub const MEMORY: u32 = 64;

/// Of the map. With more, fewer tuples share a place, and those that do cost a look at the sockets.
pub const LEN: u32 = 1 << BITS;
const BITS: u32 = 14;

/// Where a tuple, as its balancer's packets say it, has its place.
#[inline(always)]
#[must_use]
pub const fn place(tuple: &Tuple) -> u32 {
    const MIX: u32 = 0x9e37_79b1;
    let [source, destination] = tuple.addresses();
    let [a, b, c, d] = source.words();
    let [_, _, _, e] = destination.words();
    let [sport, dport] = tuple.ports();
    let ports = (sport as u32) << 16 | dport as u32;
    let addresses = (a ^ b ^ c ^ d).wrapping_mul(MIX) ^ e;
    (addresses ^ ports.wrapping_mul(MIX)).wrapping_mul(MIX) >> (u32::BITS - BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, Endpoint};

    #[test]
    fn ports_of_one_balancer_have_places_of_their_own() {
        let service = Endpoint::new(Addr::from_v4(7), 443);
        let mut hits = [0_u8; LEN as usize];
        for port in 32_768..60_999 {
            let tuple = Tuple::new(Endpoint::new(Addr::from_v4(9), port), service);
            hits[place(&tuple) as usize] += 1;
        }
        assert!(
            hits.iter().all(|hits| *hits <= 8),
            "{:?}",
            hits.iter().max()
        );
    }
}
