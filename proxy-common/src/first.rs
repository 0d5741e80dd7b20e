//! Whom balancers' sockets speak for, where only their first datagrams have headers.

use crate::{Addr, Endpoint, flow::Tuple};

/// A balancer's socket, by the tuple of its datagrams. Where its address means something on one link alone, the
/// device that they come by is part of that.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker(Tuple);

impl Speaker {
    #[inline(always)]
    #[must_use]
    pub const fn new(datagram: &Tuple, device: u32) -> Self {
        let [source, destination] = datagram.addresses();
        if !source.is_of_link() {
            return Self(*datagram);
        }
        // The second word of such an address is zero.
        let [a, b, c, d] = source.words();
        let source = Addr::from_v6([a, b ^ device, c, d]);
        Self(Tuple::from_wire(source, *destination, datagram.ports()))
    }

    #[must_use]
    pub const fn tuple(&self) -> &Tuple {
        &self.0
    }
}

/// Whom a balancer's socket speaks for, where only the first datagram has said so. The key is a [`Speaker`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    client: Addr,
    port: u16,
    said: u16,
    /// When the last datagram came.
    pub last: u32,
}

impl First {
    const UNDECIDED: u16 = 0;
    const SAID: u16 = 1;
    const IN_PIECES: u16 = 2;
    /// What of `said` isn't the second since when pieces are waited for.
    const STATE: u16 = 3;
    /// The stack gives IPv6's up by then, and IPv4's in half the time.
    const PATIENCE: i16 = 60;

    /// The daemon has yet to tell: a datagram went there, which reads its header, and all that come after it follow.
    #[must_use]
    pub const fn undecided(now: u32) -> Self {
        Self {
            client: Addr::from_v4(0),
            port: 0,
            said: Self::UNDECIDED,
            last: now,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a port")]
    #[must_use]
    pub const fn said(client: Endpoint, now: u32) -> Self {
        Self {
            client: client.addr(),
            port: client.port() as u16,
            said: Self::SAID,
            last: now,
        }
    }

    /// By the first piece of a datagram that is yet to be put together, or by one that takes a longer way: it alone
    /// has a header.
    #[must_use]
    pub const fn in_pieces(client: Endpoint, now: u32) -> Self {
        Self {
            said: Self::second(now) | Self::IN_PIECES,
            ..Self::said(client, now)
        }
    }

    #[must_use]
    pub const fn client(&self) -> Endpoint {
        Endpoint::new(self.client, self.port)
    }

    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        self.said == Self::UNDECIDED
    }

    #[expect(clippy::cast_possible_truncation, reason = "hours are enough")]
    const fn second(now: u32) -> u16 {
        (now << 2) as u16
    }

    /// Whether pieces of the first datagram may be waited for still.
    #[must_use]
    pub const fn is_in_pieces(&self, now: u32) -> bool {
        let since = self.said & !Self::STATE;
        // The daemon's clock may be behind the programs'.
        let seconds = Self::second(now).wrapping_sub(since).cast_signed() >> 2;
        self.said & Self::STATE == Self::IN_PIECES && seconds <= Self::PATIENCE
    }

    /// Whether the socket has been silent for too long to speak for anybody.
    #[must_use]
    pub const fn is_over(&self, now: u32, close_after: u32) -> bool {
        now.saturating_sub(self.last) > close_after
    }

    /// With one more datagram.
    #[must_use]
    pub const fn heard(self, now: u32) -> Self {
        let said = match self.said {
            Self::UNDECIDED => return self,
            _ if self.is_in_pieces(now) => self.said,
            _ => Self::SAID,
        };
        Self {
            said,
            last: now,
            ..self
        }
    }
}

layout! {
    Speaker = 36,
    First = 24,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_link_are_told_apart_by_it() {
        let service = Endpoint::new(Addr::from_v4(7), 443);
        let speaker = |words, device| {
            let balancer = Endpoint::new(Addr::from_v6(words), 9000);
            Speaker::new(&Tuple::new(balancer, service), device)
        };
        let of_link = [u32::to_be(0xfe80_0000), 0, 0, 1];
        assert_ne!(speaker(of_link, 2), speaker(of_link, 3));
        assert_eq!(speaker(of_link, 2), speaker(of_link, 2));
        let of_all = [u32::to_be(0x2001_0db8), 0, 0, 1];
        assert_eq!(speaker(of_all, 2), speaker(of_all, 3));
    }

    #[test]
    fn pieces_are_waited_for_by_clocks_that_differ() {
        let client = Endpoint::new(Addr::from_v4(7), 1000);
        for named in [1, 16_383, 16_384, 100_000] {
            let first = First::in_pieces(client, named);
            assert!([named - 1, named, named + 60].map(|now| first.is_in_pieces(now)) == [true; 3]);
            assert!(!first.is_in_pieces(named + 61) && !first.is_undecided());
            let heard = first.heard(named + 59);
            assert!(heard.is_in_pieces(named + 60) && !heard.is_over(named + 61, 2));
            assert!(!heard.heard(named + 61).is_in_pieces(named + 62));
            assert_eq!(heard.client(), client);
        }
        assert!(!First::said(client, 5).is_in_pieces(5));
        assert!(First::undecided(5).heard(6).is_undecided());
    }
}
