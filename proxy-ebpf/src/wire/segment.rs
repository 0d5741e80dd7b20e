//! TCP segments, and datagrams of UDP.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use network_types::{
    ip::{IpProto, Ipv6Hdr},
    udp::UdpHdr,
};
use proxy_common::{Addr, flow::Tuple};

use super::plain_offset;
use crate::ctx::{self, Link, Unreadable, Version};

/// All of a segment's headers that matters here, in host order but for the tuple.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    pub tuple: Tuple,
    pub seq: u32,
    pub ack: u32,
    pub flags: u32,
    /// Where the TCP header is, and its length.
    pub at: u32,
    pub len: u32,
    /// Bytes behind it.
    pub payload: u32,
}

impl Segment {
    const FIN: u32 = 0x01;
    const SYN: u32 = 0x02;
    const RST: u32 = 0x04;
    const ACK: u32 = 0x10;
    const URG: u32 = 0x20;
    const PSH: u32 = 0x08;

    /// One whose UDP header is at `at`, of which the packet has `total` bytes, all in all.
    #[inline(always)]
    pub const fn datagram(tuple: Tuple, at: u32, total: u32) -> Self {
        const LEN: u32 = UdpHdr::LEN as u32;
        Self {
            tuple,
            seq: 0,
            ack: 0,
            flags: 0,
            at,
            len: LEN,
            payload: total.saturating_sub(at + LEN),
        }
    }

    #[inline(always)]
    const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    #[inline(always)]
    pub const fn fin(&self) -> bool {
        self.has(Self::FIN)
    }

    #[inline(always)]
    pub const fn rst(&self) -> bool {
        self.has(Self::RST)
    }

    #[inline(always)]
    pub const fn acks(&self) -> bool {
        self.has(Self::ACK)
    }

    /// The first one of a connection.
    #[inline(always)]
    pub const fn is_first(&self) -> bool {
        self.has(Self::SYN) && !self.has(Self::ACK)
    }

    /// The same, and nothing that a SYN shouldn't have. ECN's bits may be there.
    #[inline(always)]
    pub const fn is_plain_syn(&self) -> bool {
        const MEANINGFUL: u32 =
            Segment::FIN | Segment::SYN | Segment::RST | Segment::PSH | Segment::ACK | Segment::URG;
        self.flags & MEANINGFUL == Self::SYN && self.payload == 0
    }
}

/// What a packet is to the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither of these, or not readable.
    Other,
    /// Not in a fragment: its ports are there.
    Tcp,
    /// The same.
    Udp,
    Icmp,
}

/// Reads a packet's headers.
#[inline(always)]
pub fn read(ctx: &TcContext, version: Version, link: Link, segment: &mut Segment) -> Kind {
    const TCP: u32 = Kind::Tcp as u32;
    const UDP: u32 = Kind::Udp as u32;
    const ICMP: u32 = Kind::Icmp as u32;
    let is_v4 = version == Version::V4;
    match read_once(ctx.skb.skb, is_v4, link.len() as u32, segment) {
        TCP => Kind::Tcp,
        UDP => Kind::Udp,
        ICMP => Kind::Icmp,
        _ => Kind::Other,
    }
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "read_headers")]
#[inline(never)]
extern "C" fn read_once(skb: *mut __sk_buff, is_v4: bool, link: u32, segment: *mut Segment) -> u32 {
    // SAFETY: the caller's, if it isn't null, which the verifier has asked about.
    let Some(segment) = (unsafe { segment.as_mut() }) else {
        return Kind::Other as u32;
    };
    let (ctx, version) = (&TcContext::new(skb), Version::if_v4(is_v4));
    let link = Link::of(link);
    ctx::gather_least(ctx, link, plain_offset(version) + UdpHdr::LEN);
    let read = match version {
        Version::V4 => read_v4(ctx, link, segment),
        Version::V6 => read_v6(ctx, link, segment),
    };
    read.unwrap_or(Kind::Other) as u32
}

#[inline(always)]
fn read_v4(ctx: &TcContext, link: Link, segment: &mut Segment) -> Option<Kind> {
    let [start, fragment, protocol, source, destination]: [u32; 5] =
        ctx::peek(ctx, link, 0).ok()?;
    let [_, protocol, _, _] = protocol.to_ne_bytes();
    if protocol == IpProto::Icmp as u8 {
        return Some(Kind::Icmp);
    }
    let [_, _, high, low] = fragment.to_ne_bytes();
    let is_fragment = u16::from_be_bytes([high, low]) & 0x3fff != 0;
    if is_fragment {
        return None;
    }
    let addrs = [source, destination].map(Addr::from_v4);
    let [version_and_words, _, high, low] = start.to_ne_bytes();
    let total = u16::from_be_bytes([high, low]).into();
    let at = u32::from(version_and_words & 0xf) * 4;
    if protocol == IpProto::Tcp as u8 {
        return read_tcp(ctx, link, Version::V4, segment, addrs, at, total);
    }
    if protocol == IpProto::Udp as u8 {
        return read_udp(ctx, link, Version::V4, segment, addrs, at, total);
    }
    None
}

#[inline(always)]
fn read_v6(ctx: &TcContext, link: Link, segment: &mut Segment) -> Option<Kind> {
    let ip: [u32; 10] = ctx::peek(ctx, link, 0).ok()?;
    let [_, length, s0, s1, s2, s3, d0, d1, d2, d3] = ip;
    let [high, low, next, _] = length.to_ne_bytes();
    let (next, at) = behind_options(ctx, next, Ipv6Hdr::LEN as u32)?;
    let (next, at) = behind_options(ctx, next, at)?;
    if next == IpProto::Ipv6Icmp as u8 {
        return Some(Kind::Icmp);
    }
    let total = match u16::from_be_bytes([high, low]) {
        0 => 0,
        payload => u32::from(payload) + Ipv6Hdr::LEN as u32,
    };
    let addrs = [
        Addr::from_v6([s0, s1, s2, s3]),
        Addr::from_v6([d0, d1, d2, d3]),
    ];
    if addrs.iter().any(|addr| addr.v4().is_some()) {
        // In maps it would be an IPv4 packet's.
        return None;
    }
    if next == IpProto::Tcp as u8 {
        return read_tcp(ctx, link, Version::V6, segment, addrs, at, total);
    }
    if next == IpProto::Udp as u8 {
        return read_udp(ctx, link, Version::V6, segment, addrs, at, total);
    }
    None
}

/// Options for the destination, an extension header.
pub const DESTINATION: u8 = 60;

/// What is behind an extension header with options, and where: what is larger than 64 KiB has its
/// length in one of those.
#[inline(always)]
pub fn behind_options(ctx: &TcContext, next: u8, at: u32) -> Option<(u8, u32)> {
    const HOP_BY_HOP: u8 = 0;
    if next != HOP_BY_HOP && next != DESTINATION {
        return Some((next, at));
    }
    ctx::gather_headers(ctx);
    let [inner, more]: [u8; 2] = ctx::load(ctx, at as usize).ok()?;
    Some((inner, at + (u32::from(more) + 1) * 8))
}

/// What is at `at`, which as a rule is right behind IP's fixed header.
#[inline(always)]
fn behind_ip<T: Copy>(
    ctx: &TcContext,
    link: Link,
    version: Version,
    at: u32,
) -> Result<T, Unreadable> {
    let plain = plain_offset(version);
    let read = match at as usize == plain {
        true => ctx::peek(ctx, link, plain),
        false => ctx::load(ctx, at as usize),
    };
    read.or_else(|Unreadable| {
        ctx::gather_headers(ctx);
        ctx::load(ctx, at as usize)
    })
}

/// A segment whose TCP header is at `at`, of a packet of `total` bytes; 0: as many as there are.
#[inline(always)]
pub fn read_tcp(
    ctx: &TcContext,
    link: Link,
    version: Version,
    segment: &mut Segment,
    [source, destination]: [Addr; 2],
    at: u32,
    total: u32,
) -> Option<Kind> {
    let [ports, seq, ack, last]: [u32; 4] = behind_ip(ctx, link, version, at).ok()?;
    let [offset, flags, _, _] = last.to_ne_bytes();
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let ports = [u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([d0, d1])];
    // A packet of more than 64 KiB has no length of its own.
    let total = match total {
        0 => ctx::len(ctx, link),
        total => total,
    };
    let len = u32::from(offset >> 4) * 4;
    *segment = Segment {
        tuple: Tuple::from_wire(source, destination, ports),
        seq: u32::from_be(seq),
        ack: u32::from_be(ack),
        flags: flags.into(),
        at,
        len,
        payload: total.saturating_sub(at + len),
    };
    Some(Kind::Tcp)
}

/// A datagram whose UDP header is at `at`, of a packet of `total` bytes, all of which is its own.
#[inline(always)]
fn read_udp(
    ctx: &TcContext,
    link: Link,
    version: Version,
    segment: &mut Segment,
    [source, destination]: [Addr; 2],
    at: u32,
    total: u32,
) -> Option<Kind> {
    const LEN: u32 = UdpHdr::LEN as u32;
    let [ports, last]: [u32; 2] = behind_ip(ctx, link, version, at).ok()?;
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let ports = [u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([d0, d1])];
    let [high, low, _, _] = last.to_ne_bytes();
    let len = u32::from(u16::from_be_bytes([high, low]));
    if len < LEN || at + len != total {
        return None;
    }
    *segment = Segment::datagram(Tuple::from_wire(source, destination, ports), at, total);
    Some(Kind::Udp)
}

/// Whether nothing is between the fixed header of IP and TCP's, or UDP's.
#[inline(always)]
pub const fn is_plain(segment: &Segment, version: Version) -> bool {
    segment.at == plain_offset(version) as u32
}
