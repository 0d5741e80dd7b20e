//! Direct connections as the programs know them: one flow entry for each direction, by what its
//! packets say.
//!
//! "Up" is from the balancer to the application, "down" the way back.

#![expect(
    clippy::cast_possible_truncation,
    reason = "ports, and a clock that goes round"
)]

use crate::{Addr, Endpoint, header::MAX_LEN};

/// Entries of each direction's map. Ended connections stay for a moment as well.
pub const MAX_FLOWS: u32 = 1 << 17;

/// A TCP connection as the packets of one direction name it, laid out as an IPv6 header and the
/// ports behind it are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    source: Addr,
    destination: Addr,
    /// Network order.
    ports: [u16; 2],
}

impl Tuple {
    #[must_use]
    pub const fn new(source: Endpoint, destination: Endpoint) -> Self {
        Self {
            source: source.addr,
            destination: destination.addr,
            ports: [
                (source.port as u16).to_be(),
                (destination.port as u16).to_be(),
            ],
        }
    }

    /// From ports of network order.
    #[must_use]
    pub const fn from_wire(source: Addr, destination: Addr, ports: [u16; 2]) -> Self {
        Self {
            source,
            destination,
            ports,
        }
    }

    #[must_use]
    pub const fn source(&self) -> Endpoint {
        Endpoint::new(self.source, u16::from_be(self.ports[0]))
    }

    #[must_use]
    pub const fn destination(&self) -> Endpoint {
        Endpoint::new(self.destination, u16::from_be(self.ports[1]))
    }

    /// Source and destination address.
    #[must_use]
    pub const fn addresses(&self) -> [&Addr; 2] {
        [&self.source, &self.destination]
    }

    /// The same as they lie in memory.
    #[must_use]
    pub const fn both_addresses(&self) -> &[Addr; 2] {
        // SAFETY: two fields of one type, one behind the other (repr(C)).
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// Source and destination port, network order.
    #[must_use]
    pub const fn ports(&self) -> [u16; 2] {
        self.ports
    }

    /// Whether the other is of the packets that go the other way; compared in place.
    #[inline(always)]
    #[must_use]
    pub fn is_reverse_of(&self, other: &Self) -> bool {
        let [sport, dport] = other.ports;
        self.ports == [dport, sport]
            && self.source == other.destination
            && self.destination == other.source
    }

    /// As the packets of the other direction name it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: [self.ports[1], self.ports[0]],
        }
    }
}

/// What becomes of a segment: its new tuple, and what that does to checksums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub to: Tuple,
    /// Of the addresses, which the pseudo-header has as well, and of the ports.
    pub addresses: u32,
    pub ports: u32,
}

/// A direct connection, by its balancer's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Up {
    pub rewrite: Rewrite,
    /// The sequence number of the segment that carried the header.
    pub first: u32,
    /// Not 0: the application's socket has been there.
    pub confirmed: u32,
}

/// A direct connection, by its application's packets. The egress program writes it, under the
/// application's socket lock, but for `told` and `gone`, which are the sweep's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Down {
    pub rewrite: Rewrite,
    /// The sequence numbers of the first byte behind the header, and of the application's first.
    pub up_base: u32,
    pub down_base: u32,
    pub flags: u16,
    pub told: u16,
    pub service: u32,
    /// When the header came, in seconds of [`seconds`].
    pub opened: u32,
    /// How many had been made, with this one.
    pub number: u64,
    /// Bytes that the application's socket has acknowledged, and that it has sent.
    pub up: u64,
    pub down: u64,
    /// The device that leads to the balancer.
    pub device: u32,
    /// When that was found out, and since when the socket is gone (0: it isn't), in seconds.
    pub routed: u16,
    pub gone: u16,
    /// The neighbour on the way.
    pub mac: [u8; 6],
    /// The version of the header.
    pub header: u16,
}

impl Down {
    /// The application's socket has been there, as far as it can be told from this alone.
    #[inline(always)]
    #[must_use]
    pub const fn was_seen(&self) -> bool {
        self.flags & flag::CONFIRMED != 0 || self.told & told::SEEN != 0
    }
}

/// Bits of `flags`.
pub mod flag {
    /// The application's socket has sent something.
    pub const CONFIRMED: u16 = 1;
    /// The SYN had no timestamps: there is an entry in the pending table.
    pub const PENDING: u16 = 2;
    /// The application sent FIN.
    pub const FIN: u16 = 4;
    /// Both sides sent FIN.
    pub const CLOSED: u16 = 8;
    /// The application reset the connection.
    pub const RESET: u16 = 16;
    /// The header had TLVs: it is kept.
    pub const KEPT: u16 = 32;
}

/// Bits of `told`.
pub mod told {
    use crate::limits::Party;

    /// The application's socket was seen.
    pub const SEEN: u16 = 1;
    /// The daemon has heard that the connection is open.
    pub const OPEN: u16 = 2;
    /// The daemon has heard that it is over.
    pub const ENDED: u16 = 4;
    /// Its end was seen in TIME_WAIT: both sides sent FIN.
    pub const CLOSED: u16 = 8;
    /// It is counted for its balancer, or for its client.
    pub const COUNTED: u16 = counted(Party::Balancer.bit()) | counted(Party::Client.bit());

    /// For whom it counts, from [`Party`]'s bits.
    #[must_use]
    pub const fn counted(parties: u32) -> u16 {
        (parties as u16) << 4
    }

    #[must_use]
    pub const fn parties(told: u16) -> u32 {
        (told & COUNTED) as u32 >> 4
    }
}

/// The clock of flows and cookies, from the kernel's coarse monotonic one: near a second.
#[must_use]
pub const fn seconds(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// What the sweep tells the daemon of a connection that is open, or is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The application's packets'.
    pub tuple: Tuple,
    /// [`OPENED`](Self::OPENED), [`CLOSED`](Self::CLOSED) or [`RESET`](Self::RESET).
    pub what: u32,
    pub down: Down,
}

impl Told {
    pub const OPENED: u32 = 0;
    pub const CLOSED: u32 = 1;
    pub const RESET: u32 = 2;
}

/// A header with TLVs, as it came: zeroes follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub len: u32,
    pub bytes: [u32; MAX_LEN / 4],
}

/// A SYN without timestamps that was answered: what the cookie would say.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The balancer's initial sequence number, and the one that it was answered with.
    pub theirs: u32,
    pub ours: u32,
    pub since: u32,
}

impl Pending {
    /// Entries of the table, and how many of them one balancer's address may have.
    pub const MAX: u32 = 1 << 15;
    pub const SHARE: u32 = Self::MAX / 4;
    /// Seconds after which an entry is nobody's.
    pub const LIFE: u32 = 10;
    /// Seconds in which another SYN of the same tuple doesn't replace it.
    pub const YOUNG: u32 = 3;
}

/// What the pieces of one packet have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub addresses: [Addr; 2],
    pub id: u32,
}

/// What becomes of their addresses, and what that does to a checksum.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    pub addresses: [Addr; 2],
    pub difference: u32,
}

/// So many packets at a time may be in pieces.
pub const MAX_PIECES: u32 = 1024;

layout! {
    Tuple = 36,
    Rewrite = 44,
    Up = 52,
    Down = 104,
    Told = 144,
    Kept = 260,
    Pending = 12,
    Piece = 36,
    Pieces = 36,
}
