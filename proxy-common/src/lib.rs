//! What truepeer's eBPF programs and its daemon share: names, map layouts and constants.
//!
//! Byte order, stated once: an address is four words of network order, IPv4 as `::ffff:a.b.c.d`;
//! ports and ids are host-order integers, but for the service in an allowlist's key, which has to
//! match from its first bit on and is network order inside. No type has padding and each size is asserted here,
//! because the kernel compares and copies these bytes as they are.
#![no_std]

/// What lies in maps, and how large it is.
macro_rules! layout {
    ($($type:ty = $size:literal,)+) => {$(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: repr(C), made of integers and arrays of them only, and its size leaves no room for
        // padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )+};
}

pub mod checksum;
pub mod claim;
pub mod cookie;
pub mod counter;
pub mod datagram;
pub mod first;
pub mod flow;
pub mod given;
pub mod header;
pub mod limits;
mod names;
pub mod offsets;
mod service;
pub mod shares;
pub mod spoken;

pub use counter::Counter;
pub use names::{global, kfunc, map, program};
pub use service::{
    Guarded, Host, LAYOUT, Life, Links, Listener, PORT_WORDS, Steered, datagram_port_bit,
    exclusive_port_bit, keep_alive, mac_word, port_bit,
};

/// The MAC of both ends of the veth pair. On a NOARP device the kernel writes the sender's own
/// address as the destination, so equal ends make every frame `PACKET_HOST`. Locally administered.
pub const VETH_MAC: [u8; 6] = [0x02, b't', b'r', b'u', b'e', b'p'];

/// Of an Ethernet header, in bytes.
pub const ETHERNET_LEN: u32 = 14;

/// `lo`'s own address: a frame to any other is not for this host.
pub const LO_MAC: [u8; 6] = [0; 6];

/// The index of `lo` in every network namespace.
pub const LO: u32 = 1;

/// The packet mark between the programs, combined with the device's index, so that each instance
/// knows its own. Whom it is for clears it: nothing else on the host ever meets it.
const MARK: u32 = 0x7472_7065;

/// Of the instance whose veth's host end has this index.
#[must_use]
pub const fn mark(device: u32) -> u32 {
    MARK ^ device
}

/// Upper bound of listen addresses of all services together.
pub const MAX_LISTENERS: u32 = 1024;
/// Upper bound of devices of services that are guarded there.
pub const MAX_GUARDED: u32 = 4096;
/// Upper bound of addresses that the host has.
pub const MAX_LOCALS: u32 = 1 << 14;
/// Upper bound of target addresses of all services together.
pub const MAX_TARGETS: u32 = 1024;
/// Upper bound of prefixes of one family in a list, all services together.
pub const MAX_LISTED: u32 = 1 << 20;

/// Most devices that wait for programs, or have them, at a start.
pub const MAX_DEVICES: u32 = 1 << 14;
/// Most routes of a family that a host without a default route may have, for its own traffic to be told
/// that there is none.
pub const MAX_ROUTES: u32 = 1 << 14;

/// An address in the one form that both sides compare: four words as they lie in memory.
#[repr(C)]
#[expect(
    clippy::derived_hash_with_manual_eq,
    reason = "it compares the words that are hashed"
)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash)]
pub struct Addr([u32; 4]);

impl PartialEq for Addr {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        difference(self.0, other.0) == 0
    }
}

/// In one comparison: the verifier goes through what follows for each way out of one.
#[inline(always)]
const fn difference([a, b, c, d]: [u32; 4], [e, f, g, h]: [u32; 4]) -> u32 {
    a ^ e | b ^ f | c ^ g | d ^ h
}

impl Addr {
    /// Nobody's addresses, of the blocks for documentation: a client that asks whether anybody answers.
    pub const NOBODY: [Self; 2] = [
        Self::from_v4(u32::from_ne_bytes([192, 0, 2, 1])),
        Self::from_v6([0x2001_0db8_u32.to_be(), 0, 0, 1_u32.to_be()]),
    ];

    /// The third word of an IPv4-mapped address; the first two are zero.
    pub const V4_MAPPED: u32 = 0xffff_u32.to_be();

    /// From words in network order, as packets and the kernel's sockets have them.
    pub const fn from_v6(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// From a word in network order.
    pub const fn from_v4(word: u32) -> Self {
        Self([0, 0, Self::V4_MAPPED, word])
    }

    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Whether no client can have it, whichever host this is. An application would trust most of
    /// these, and the kernel throws their packets away without a word.
    #[inline(always)]
    pub const fn is_martian(&self) -> bool {
        if let Some(word) = self.v4() {
            let [first, ..] = word.to_ne_bytes();
            return first == 0 || first == 127 || (first >= 224 && first < 240) || word == u32::MAX;
        }
        let [a, b, c, d] = self.0;
        let [first, ..] = a.to_ne_bytes();
        let is_low = a | b | c == 0 && u32::from_be(d) <= 1;
        is_low || first == 0xff || self.is_of_link()
    }

    /// Whether it means something on one link alone.
    #[inline(always)]
    pub const fn is_of_link(&self) -> bool {
        let [first, second, ..] = self.0[0].to_ne_bytes();
        first == 0xfe && second & 0xc0 == 0x80
    }

    pub fn is_nobodys(&self) -> bool {
        Self::NOBODY.contains(self)
    }

    /// The IPv4 address's word, if this is one.
    pub const fn v4(&self) -> Option<u32> {
        let [a, b, c, word] = self.0;
        match difference([a, b, c, 0], [0, 0, Self::V4_MAPPED, 0]) {
            0 => Some(word),
            _ => None,
        }
    }
}

/// An address and port: of a listener, of a steer address, of a target.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    addr: Addr,
    port: u32,
}

impl Endpoint {
    pub const fn new(addr: Addr, port: u16) -> Self {
        Self {
            addr,
            port: port as u32,
        }
    }

    pub const fn addr(&self) -> Addr {
        self.addr
    }

    pub const fn port(&self) -> u32 {
        self.port
    }
}

/// What an allowlist's trie matches after the prefix length: the service, then the address in `N`
/// words of network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listed<const N: usize> {
    service: u32,
    addr: [u32; N],
}

impl<const N: usize> Listed<N> {
    /// Bits in front of the address: the service always matches whole.
    pub const SERVICE_BITS: u32 = 32;

    pub const fn new(service: u32, addr: [u32; N]) -> Self {
        Self {
            service: service.to_be(),
            addr,
        }
    }

    pub const fn service(&self) -> u32 {
        u32::from_be(self.service)
    }

    pub const fn addr(&self) -> [u32; N] {
        self.addr
    }

    /// The trie's prefix length for a prefix of `bits` address bits.
    pub const fn prefix_len(bits: u32) -> u32 {
        Self::SERVICE_BITS + bits
    }
}

/// Value in a list: who put the prefix there. The programs only ask whether one is there.
pub mod origin {
    /// From a flag or its file: the next start replaces it.
    pub const CONFIG: u32 = 1;
    /// From `truepeer allow` or `truepeer deny`: stays until it is removed.
    pub const LIVE: u32 = 2;
}

/// The network of the steer addresses of one family, for one masked comparison per packet. Its
/// prefix is at least 96 bits long, so only the last word has a mask.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steer {
    network: Addr,
    mask: u32,
}

impl Steer {
    /// The network of `addr` with the last `host_bits` (below 32) left free.
    pub const fn new(addr: Addr, host_bits: u32) -> Self {
        let mask = (u32::MAX << host_bits).to_be();
        let [a, b, c, d] = addr.words();
        Self {
            network: Addr([a, b, c, d & mask]),
            mask,
        }
    }

    #[inline(always)]
    pub const fn contains(&self, addr: &Addr) -> bool {
        let [a, b, c, d] = addr.words();
        difference(self.network.words(), [a, b, c, d & self.mask]) == 0
    }
}

layout! {
    Addr = 16,
    Endpoint = 20,
    Steered = 40,
    Listener = 100,
    Guarded = 8,
    Host = 16,
    Steer = 20,
}
const _: () = assert!(size_of::<Listed<1>>() == 8 && size_of::<Listed<4>>() == 20);

#[cfg(feature = "user")]
mod user {
    use super::{Addr, Endpoint, Listed};
    use core::net::{IpAddr, SocketAddr};

    // SAFETY: as of `layout`'s.
    unsafe impl<const N: usize> aya::Pod for Listed<N> {}

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::from_v4(u32::from_ne_bytes(v4.octets())),
                IpAddr::V6(v6) => {
                    let mut words = [0; 4];
                    for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks().0) {
                        *word = u32::from_ne_bytes(*bytes);
                    }
                    Self(words)
                }
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            let words = addr.words().map(u32::to_ne_bytes);
            let mut octets = [0; 16];
            for (bytes, word) in octets.as_chunks_mut().0.iter_mut().zip(words) {
                *bytes = word;
            }
            Self::from(octets).to_canonical()
        }
    }

    impl From<Endpoint> for SocketAddr {
        fn from(endpoint: Endpoint) -> Self {
            let port = u16::try_from(endpoint.port()).unwrap_or_default();
            Self::new(endpoint.addr().into(), port)
        }
    }

    impl From<SocketAddr> for Endpoint {
        fn from(addr: SocketAddr) -> Self {
            Self::new(addr.ip().into(), addr.port())
        }
    }
}
