//! What the daemon asks of the tallies, and what the programs answer; see [`limits`](crate::limits).

use crate::{Addr, limits::Party};

/// What is asked about a connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To count it, if the limits let it be.
    Claim,
    /// To count it, as it is there.
    Count,
    /// To count it no longer.
    Release,
    /// Not of a connection: to forget the tallies that say nothing any more.
    Tidy,
}

/// What becomes of it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Others are at the tallies for too long.
    Busy,
    /// So many are counted that there is no room to count this one.
    NoRoom,
    BalancerFull,
    ClientFull,
    BalancerTooFast,
    ClientTooFast,
}

impl Answer {
    const ALL: [Self; 7] = [
        Self::Done,
        Self::Busy,
        Self::NoRoom,
        Self::BalancerFull,
        Self::ClientFull,
        Self::BalancerTooFast,
        Self::ClientTooFast,
    ];

    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|answer| *answer as u32 == number)
    }

    #[must_use]
    pub const fn full(party: Party) -> Self {
        match party {
            Party::Balancer => Self::BalancerFull,
            Party::Client => Self::ClientFull,
        }
    }

    #[must_use]
    pub const fn too_fast(party: Party) -> Self {
        match party {
            Party::Balancer => Self::BalancerTooFast,
            Party::Client => Self::ClientTooFast,
        }
    }
}

/// A connection that is to be counted, or that is: a packet of no other meaning for the program `tally`, which
/// answers by writing into it. The direct path has one to work with as well.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Zeroes, as the kernel looks for an Ethernet header.
    pub header: [u32; 4],
    /// As [`Ask`].
    pub ask: u32,
    /// As [`Answer`].
    pub answer: u32,
    pub service: u32,
    /// For whom it counts, as [`Party`]'s bits.
    pub counted: u32,
    /// Not 0: it is one that has been let in before.
    pub is_again: u32,
    pub balancer: Addr,
    pub client: Addr,
    /// Tallies that there are by now, of [`Ask::Tidy`].
    pub left: u32,
}

impl Claim {
    #[must_use]
    pub const fn addr(&self, party: Party) -> Addr {
        match party {
            Party::Balancer => self.balancer,
            Party::Client => self.client,
        }
    }

    #[must_use]
    pub const fn counts(&self, party: Party) -> bool {
        self.counted & party.bit() != 0
    }
}

layout! {
    Claim = 72,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_are_written() {
        for answer in Answer::ALL {
            assert_eq!(Answer::from_number(answer as u32), Some(answer));
        }
        assert_eq!(Answer::from_number(7), None);
    }
}
