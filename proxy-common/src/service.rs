//! What the programs know of services and of the host.

use crate::{Endpoint, cookie};

/// Words of the bitmap of ports: those that services of TCP listen at, and then those of UDP, and those that
/// UDP applications answer balancers' clients alone from.
pub const PORT_WORDS: u32 = 3 * UDP_WORDS;
const UDP_WORDS: u32 = (u16::MAX as u32 + 1) / u32::BITS;

/// Where a port is in that bitmap: the word, and the bit in it.
#[must_use]
pub const fn port_bit(port: u16) -> (u32, u32) {
    let port = port as u32;
    (port / u32::BITS, port % u32::BITS)
}

/// The same of UDP's.
#[must_use]
pub const fn datagram_port_bit(port: u16) -> (u32, u32) {
    let (word, bit) = port_bit(port);
    (UDP_WORDS + word, bit)
}

/// The same of [`Aim::EXCLUSIVE`](crate::datagram::Aim::EXCLUSIVE) ones.
#[must_use]
pub const fn exclusive_port_bit(port: u16) -> (u32, u32) {
    let (word, bit) = port_bit(port);
    (2 * UDP_WORDS + word, bit)
}

/// What the programs know of a listen address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    service: u32,
    socket: u32,
    flags: u32,
    /// Of a cookie's tick in seconds, and how many of them the header may take.
    tick: u32,
    header_ticks: u32,
    target4: Steered,
    target6: Steered,
}

/// An application on this host, and the address that clients' connections to it go to. Unset: there
/// is none of this family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    pub steer: Endpoint,
    pub target: Endpoint,
}

impl Steered {
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.target.port != 0
    }
}

impl Listener {
    /// IPv4 connections, or IPv6 ones, may be direct.
    pub const DIRECT_V4: u32 = 1;
    pub const DIRECT_V6: u32 = 2;
    /// Which headers are taken.
    pub const HEADER_V1: u32 = 4;
    pub const HEADER_V2: u32 = 8;
    /// A target is beyond this host, where nobody can tell whether anything listens.
    pub const REMOTE: u32 = 16;
    /// A target is heard by one device alone (SO_BINDTODEVICE): a program at another one finds nobody.
    pub const BOUND: u32 = 32;
    /// Nobody new gets in.
    pub const DRAINED: u32 = 64;
    /// Who is in no list of balancers reaches what listens there itself.
    pub const OUTSIDERS_APP: u32 = 128;

    /// `target4` and `target6` are the service's applications on this host.
    #[must_use]
    pub fn new(service: u32, target4: Steered, target6: Steered) -> Self {
        Self {
            service,
            target4,
            target6,
            tick: 1,
            ..Self::default()
        }
    }

    /// The same at the socket of this index in the sockets map.
    #[must_use]
    pub const fn at(self, socket: u32) -> Self {
        Self { socket, ..self }
    }

    pub const fn set(&mut self, flag: u32, is_set: bool) {
        if is_set {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// A header may take this long.
    #[must_use]
    pub const fn with_header_seconds(self, seconds: u32) -> Self {
        let tick = seconds / cookie::MAX_AGE + 1;
        Self {
            tick,
            header_ticks: seconds.div_ceil(tick),
            ..self
        }
    }

    #[must_use]
    pub const fn service(&self) -> u32 {
        self.service
    }

    #[must_use]
    pub const fn socket(&self) -> u32 {
        self.socket
    }

    #[must_use]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// The clock of its cookies.
    #[must_use]
    pub const fn tick(&self, seconds: u32) -> u32 {
        // 0 can't be set, but the programs have to be sure of it.
        match seconds.checked_div(self.tick) {
            Some(ticks) => ticks,
            None => seconds,
        }
    }

    #[must_use]
    pub const fn header_ticks(&self) -> u32 {
        self.header_ticks
    }

    #[must_use]
    pub const fn target4(&self) -> &Steered {
        &self.target4
    }

    #[must_use]
    pub const fn target6(&self) -> &Steered {
        &self.target6
    }
}

/// A service at a device where its driver drops who is on no list of the service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guarded {
    /// Its index.
    pub device: u32,
    pub service: u32,
}

/// A device's address in a word, as an Ethernet header has it.
#[must_use]
pub const fn mac_word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// What this host's TCP would offer in a handshake, and how many direct connections there may be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub timestamps: u32,
    pub sack: u32,
    /// The window scale, or [`NO_SCALE`](Self::NO_SCALE).
    pub scale: u32,
    pub most: u32,
}

impl Host {
    pub const NO_SCALE: u32 = u32::MAX;
}

/// What is in the `links` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// [`ETHERNET_LEN`](crate::ETHERNET_LEN): what packets begin with on all devices but the bare ones.
    Ethernet,
    /// Not 0: there has been a bare one. Most hosts have none, and are spared asking for each packet.
    AnyIsBare,
}

impl Links {
    pub const LEN: u32 = Self::AnyIsBare as u32 + 1;
}

/// When an application's socket asks whether its balancer is still there.
pub mod keep_alive {
    /// Of silence. The kernel asks again as `net.ipv4.tcp_keepalive_*` say.
    pub const SECONDS: i32 = 300;
}

/// What the bytes of the maps mean that one daemon leaves to the next. To be counted up with each change
/// of their meaning: equal sizes can hide other fields.
pub const LAYOUT: u32 = 21;

/// What is in the `life` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// When the daemon was last heard of, in nanoseconds of the kernel's coarse clock. It has the
    /// program `beat` write it, whatever its own clock says.
    Beat,
    /// Not 0: no new connections.
    Closing,
    /// Direct connections that were open as the sweep last counted them.
    Flows,
    /// How many direct connections have ever been made.
    Made,
    /// How many had been as that count began.
    Counted,
    /// Connections that the daemon has.
    Daemon,
    /// Entries of the flow table, as of the last sweep.
    Entries,
    /// When a daemon began that found connections of one before it, in seconds of the flows' clock; 0:
    /// it found none.
    Found,
    /// Not 0: packets for applications enter by the veth, as `lo` takes them no more.
    PastLo,
    /// Not 0: some balancer's first segments have come in fragments.
    Fragments,
    /// Not 0: some application is heard by one device alone.
    Bound,
    /// Not 0: there are applications of UDP. Not 1 either: some may be beyond this host.
    Datagrams,
    /// Not 0: the programs are about to go. What an application sends from here on isn't given a steer address, as
    /// nobody might be there to take it off.
    Ending,
}

impl Life {
    pub const LEN: u32 = Self::Ending as u32 + 1;

    /// Direct connections that are open, by the map's words.
    #[inline(always)]
    pub fn open(word: impl Fn(Self) -> u64) -> u64 {
        let since = word(Self::Made).wrapping_sub(word(Self::Counted));
        word(Self::Flows).wrapping_add(since)
    }

    /// Nobody hears of a daemon for longer than this: it is gone, or hangs.
    pub const PATIENCE: u64 = 2_000_000_000;
}
