//! What truepeer's eBPF programs and its daemon share: names, map layouts and constants.
//!
//! Byte order, stated once: an address is four words of network order, IPv4 as `::ffff:a.b.c.d`;
//! ports and ids are host-order integers, but for the service in an allowlist's key, which has to
//! match from its first bit on and is network order inside. No type has padding and each size is asserted here,
//! because the kernel compares and copies these bytes as they are.
#![no_std]

pub mod counter;
pub mod handover;

pub use counter::Counter;

/// Names of the programs in the object file.
pub mod program {
    pub const DISPATCH: &str = "dispatch";
    pub const REPLY: &str = "reply";
    pub const REPLY_L3: &str = "reply_l3";
    pub const REPLY_OWN: &str = "reply_own";
    pub const REPLY_REMOTE: &str = "reply_remote";
    pub const REPLY_REMOTE_L3: &str = "reply_remote_l3";
    pub const INJECT: &str = "inject";
    pub const DELIVER: &str = "deliver";
    pub const FORWARD: &str = "forward";
}

/// Names of the maps in the object file; `ALLOW4` and `ALLOW6` also name the pins.
pub mod map {
    pub const ALLOW4: &str = "allow4";
    pub const ALLOW6: &str = "allow6";
    pub const LISTENERS: &str = "listeners";
    pub const SOCKETS: &str = "sockets";
    pub const TARGETS: &str = "targets";
    pub const REMOTES: &str = "remotes";
    pub const COUNTERS: &str = "counters";
    pub const PORTS: &str = "ports";
    pub const FLOWS: &str = "flows";
    pub const HANDED: &str = "handed";
    pub const OWED: &str = "owed";
    pub const ENDS: &str = "ends";
}

/// Names of the constants that the daemon sets before it loads the object.
pub mod global {
    pub const STEER4: &str = "STEER4";
    pub const STEER6: &str = "STEER6";
    pub const DEVICE: &str = "DEVICE";
    pub const SPOOF_NETNS: &str = "SPOOF_NETNS";
    pub const VIA_LO: &str = "VIA_LO";
    pub const HANDOVER: &str = "HANDOVER";
}

/// The MAC of both ends of the veth pair. On a NOARP device the kernel writes the sender's own
/// address as the destination, so equal ends make every frame `PACKET_HOST`. Locally administered.
pub const VETH_MAC: [u8; 6] = [0x02, b't', b'r', b'u', b'e', b'p'];

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
/// Upper bound of target addresses of all services together.
pub const MAX_TARGETS: u32 = 1024;
/// Upper bound of prefixes in one family's allowlist, all services together.
pub const MAX_ALLOWED: u32 = 1 << 20;

/// An address in the one form that both sides compare: four words as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addr([u32; 4]);

impl Addr {
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

    /// The IPv4 address's word, if this is one.
    pub const fn v4(&self) -> Option<u32> {
        match self.0 {
            [0, 0, Self::V4_MAPPED, word] => Some(word),
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

/// What `dispatch` knows of a listen address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    service: u32,
    socket: u32,
}

impl Listener {
    /// `socket` is the index in the sockets map.
    pub const fn new(service: u32, socket: u32) -> Self {
        Self { service, socket }
    }

    pub const fn service(&self) -> u32 {
        self.service
    }

    pub const fn socket(&self) -> u32 {
        self.socket
    }
}

/// What an allowlist's trie matches after the prefix length: the service, then the address in `N`
/// words of network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowed<const N: usize> {
    service: u32,
    addr: [u32; N],
}

impl<const N: usize> Allowed<N> {
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

/// Value in an allowlist: who put the prefix there. The programs only ask whether one is there.
pub mod origin {
    /// From `--allow` or `--allow-file`: the next start replaces it.
    pub const CONFIG: u32 = 1;
    /// From `truepeer allow add`: stays until it is removed.
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
        let [a, b, c, d] = self.network.words();
        let [e, f, g, h] = addr.words();
        h & self.mask == d && g == c && f == b && e == a
    }
}

const _: () = {
    assert!(size_of::<Addr>() == 16);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Listener>() == 8);
    assert!(size_of::<Allowed<1>>() == 8);
    assert!(size_of::<Allowed<4>>() == 20);
    assert!(size_of::<Steer>() == 20);
};

#[cfg(feature = "user")]
mod user {
    use super::{Addr, Allowed, Endpoint, Listener, Steer};
    use core::net::{IpAddr, SocketAddr};

    // SAFETY: each is repr(C), made of integers and byte arrays only, and the size assertions
    // above leave no room for padding.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Listener {}
    // SAFETY: as above.
    unsafe impl<const N: usize> aya::Pod for Allowed<N> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Steer {}

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

    impl From<SocketAddr> for Endpoint {
        fn from(addr: SocketAddr) -> Self {
            Self::new(addr.ip().into(), addr.port())
        }
    }
}
