//! A connection that the daemon has handed over: what the programs have to know to let the balancer
//! and the application talk to each other.
//!
//! A sequence number means a byte of the stream, so each stream is counted twice: as the balancer's
//! leg counts and as the application's leg does. The difference never changes, whoever carries the
//! bytes. Numbers here are host order, but for those in [`Endpoint`]s.

use crate::Endpoint;

/// At most so many connections are handed over at a time; the others go through the daemon.
pub const MAX_HANDED: u32 = 1 << 16;

/// A TCP connection as the packets of one direction name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub source: Endpoint,
    pub destination: Endpoint,
}

impl Flow {
    /// As the packets of the other direction name it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }
}

/// One direction. What `seq` is added to is counted by the sender's leg; "as sent" is that too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What the receiver's leg counts more than the sender's.
    pub seq: u32,
    /// The receiver has seen timestamps up to the kernel's clock in milliseconds plus this.
    pub clock: u32,
    /// The window scales: the sender's, and the one that the receiver expects.
    pub scale: u16,
    pub scale_expected: u16,
    // From here on the programs write, each those of its own direction.
    /// The end of all that was sent, as sent. FIN counts one.
    pub end: u32,
    /// A FIN was sent.
    pub fin: u32,
    /// The highest acknowledgment that was sent, as sent.
    pub ack: u32,
    /// The other direction's FIN was acknowledged.
    pub fin_acked: u32,
    /// The last window that was sent, as sent.
    pub window: u32,
    /// Up to where the sender takes what the other direction brings: the highest acknowledgment plus
    /// window, in bytes.
    pub edge: u32,
    /// The device that leads to the receiver, and when that was found out, in seconds.
    pub device: u32,
    pub device_since: u32,
    /// 1 after a reset.
    pub reset: u32,
    /// What is added to timestamps, and [`Self::STAMPED`] once that is known. One word: the packets of
    /// one direction may meet on two CPUs.
    pub stamp: u64,
    /// When the last packet came, in nanoseconds of the kernel's coarse clock.
    pub seen: u64,
    /// What was acknowledged since the handover.
    pub acked: u64,
}

impl Way {
    pub const STAMPED: u64 = 1 << 32;
}

/// Both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// What the balancer's packets become.
    pub to_app: Flow,
    /// What the application's packets become.
    pub to_balancer: Flow,
    pub up: Way,
    pub down: Way,
}

/// What the programs tell the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub id: u32,
    pub how: u32,
}

impl Ended {
    /// The application has acknowledged the balancer's FIN.
    pub const UP: u32 = 0;
    /// The balancer has acknowledged the application's FIN.
    pub const DOWN: u32 = 1;
    /// One of them reset the connection.
    pub const RESET: u32 = 2;
}

/// Words of the bitmap of ports that services listen at.
pub const PORT_WORDS: u32 = (u16::MAX as u32 + 1) / u32::BITS;

/// Where a port is in that bitmap: the word, and the bit in it.
#[must_use]
pub const fn port_bit(port: u16) -> (u32, u32) {
    let port = port as u32;
    (port / u32::BITS, port % u32::BITS)
}

const _: () = {
    assert!(size_of::<Flow>() == 40);
    assert!(size_of::<Way>() == 72);
    assert!(size_of::<Handed>() == 224);
    assert!(size_of::<Ended>() == 8);
};

#[cfg(feature = "user")]
mod user {
    use super::{Flow, Handed};

    // SAFETY: each is repr(C), made of integers only, and the size assertions above leave no room
    // for padding.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Handed {}
}
