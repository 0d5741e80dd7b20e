//! The only place that reads or writes packet bytes. Reads return copies.
//!
//! Offsets count from the network header, which every device has; an Ethernet header is missing
//! on WireGuard, tun and PPP.

use core::{
    mem::{MaybeUninit, offset_of},
    ptr::from_ref,
};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::{bpf_csum_diff, bpf_skb_change_head, bpf_skb_load_bytes_relative},
    programs::TcContext,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};
use proxy_common::{Addr, Endpoint, handover::Flow};

/// The kernel refused a read or write: the packet ends too early, or memory is short.
pub struct Unreadable;

/// The IP version by the packet's EtherType.
#[derive(Clone, Copy)]
pub enum Version {
    V4,
    V6,
}

/// What a TCP segment says of its connection.
pub struct Segment {
    pub source: Endpoint,
    pub destination: Endpoint,
    /// The first one of its connection: SYN without ACK.
    pub first: bool,
}

#[inline(always)]
pub fn version(ctx: &TcContext) -> Option<Version> {
    const IPV4: u32 = EtherType::Ipv4 as u32;
    const IPV6: u32 = EtherType::Ipv6 as u32;
    // SAFETY: the kernel hands every program a valid context.
    match unsafe { (*ctx.skb.skb).protocol } {
        IPV4 => Some(Version::V4),
        IPV6 => Some(Version::V6),
        _ => None,
    }
}

#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: as in `version`.
    unsafe { (*ctx.skb.skb).mark }
}

/// The index of the device at which the program runs.
#[inline(always)]
pub fn device(ctx: &TcContext) -> u32 {
    // SAFETY: as in `version`.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
pub fn source(ctx: &TcContext, version: Version) -> Result<Addr, Unreadable> {
    match version {
        Version::V4 => load(ctx, offset_of!(Ipv4Hdr, src_addr)).map(Addr::from_v4),
        Version::V6 => load(ctx, offset_of!(Ipv6Hdr, src_addr)).map(Addr::from_v6),
    }
}

#[inline(always)]
pub fn destination(ctx: &TcContext, version: Version) -> Result<Addr, Unreadable> {
    match version {
        Version::V4 => load(ctx, offset_of!(Ipv4Hdr, dst_addr)).map(Addr::from_v4),
        Version::V6 => load(ctx, offset_of!(Ipv6Hdr, dst_addr)).map(Addr::from_v6),
    }
}

/// The packet as a TCP segment, if it is one. Linux sends TCP without IPv6 extension headers, so it
/// is looked for right behind the fixed header.
#[inline(always)]
pub fn segment(ctx: &TcContext, version: Version) -> Result<Option<Segment>, Unreadable> {
    let (protocol, header): (u8, usize) = match version {
        Version::V4 => {
            let vihl: u8 = load(ctx, offset_of!(Ipv4Hdr, vihl))?;
            let header = usize::from(vihl & 0xf) * 4;
            (load(ctx, offset_of!(Ipv4Hdr, proto))?, header)
        }
        Version::V6 => (load(ctx, offset_of!(Ipv6Hdr, next_hdr))?, Ipv6Hdr::LEN),
    };
    if protocol != IpProto::Tcp as u8 {
        return Ok(None);
    }
    let tcp: TcpHdr = load(ctx, header)?;
    let (source, destination) = (source(ctx, version)?, destination(ctx, version)?);
    Ok(Some(Segment {
        source: Endpoint::new(source, u16::from_be_bytes(tcp.source)),
        destination: Endpoint::new(destination, u16::from_be_bytes(tcp.dest)),
        first: tcp.syn() != 0 && tcp.ack() == 0,
    }))
}

/// Overwrites both MAC addresses of a packet that has an Ethernet header.
#[inline(always)]
pub fn set_macs(ctx: &TcContext, mac: [u8; 6]) -> Result<(), Unreadable> {
    ctx.store(0, &[mac, mac], 0).map_err(|_| Unreadable)
}

/// Puts an Ethernet header in front of a packet that has none.
#[inline(always)]
pub fn add_ethernet(ctx: &TcContext, mac: [u8; 6], version: Version) -> Result<(), Unreadable> {
    // SAFETY: a plain helper call on the program's own context.
    let grown = unsafe { bpf_skb_change_head(ctx.skb.skb, EthHdr::LEN as u32, 0) };
    if grown != 0 {
        return Err(Unreadable);
    }
    let ether_type = match version {
        Version::V4 => EtherType::Ipv4,
        Version::V6 => EtherType::Ipv6,
    };
    set_macs(ctx, mac)?;
    ctx.store(2 * mac.len(), &(ether_type as u16), 0)
        .map_err(|_| Unreadable)
}

/// The destination port of a TCP packet whose IP header has no options: what others carry is none
/// of a handed-over connection's.
#[inline(always)]
pub fn tcp_destination(ctx: &TcContext, version: Version) -> Option<u16> {
    // SAFETY: as in `version`. The tag is taken off further up, where the packet is seen again.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return None;
    }
    let (protocol, header) = match version {
        Version::V4 => (offset_of!(Ipv4Hdr, proto), Ipv4Hdr::LEN),
        Version::V6 => (offset_of!(Ipv6Hdr, next_hdr), Ipv6Hdr::LEN),
    };
    let protocol: u8 = load(ctx, protocol).ok()?;
    if protocol != IpProto::Tcp as u8 {
        return None;
    }
    let port: [u8; 2] = load(ctx, header + offset_of!(TcpHdr, dest)).ok()?;
    Some(u16::from_be_bytes(port))
}

/// What differs between the legs of a connection, in host order.
#[derive(Clone, Copy)]
pub struct Numbers {
    pub seq: u32,
    pub ack: u32,
    pub window: u32,
    /// The header's length in words, and the flags, as they lie in memory.
    pub offset_flags: [u8; 2],
}

/// A TCP header, all of it but its options.
#[derive(Clone, Copy)]
pub struct Head {
    pub flow: Flow,
    pub numbers: Numbers,
    /// Bytes behind the header.
    pub payload: u32,
}

impl Head {
    #[inline(always)]
    pub const fn face(&self) -> Face<'_> {
        Face {
            flow: &self.flow,
            numbers: self.numbers,
        }
    }

    pub const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    /// What it would be as a reset.
    #[inline(always)]
    pub const fn as_reset(&self, seq: u32) -> Face<'_> {
        let mut numbers = self.numbers;
        numbers.seq = seq;
        numbers.offset_flags[1] = Self::RST;
        Face {
            flow: &self.flow,
            numbers,
        }
    }

    #[inline(always)]
    const fn has(&self, flag: u8) -> bool {
        self.numbers.offset_flags[1] & flag != 0
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
    pub const fn has_ack(&self) -> bool {
        self.has(Self::ACK)
    }

    /// The first one of a connection.
    #[inline(always)]
    pub const fn first(&self) -> bool {
        self.has(Self::SYN) && !self.has(Self::ACK)
    }

    /// Nothing but an acknowledgment.
    #[inline(always)]
    pub const fn bare(&self) -> bool {
        self.payload == 0 && !self.has(Self::FIN | Self::SYN | Self::RST)
    }

    /// Acknowledges, and neither opens nor breaks anything.
    #[inline(always)]
    pub const fn acknowledges(&self) -> bool {
        self.has(Self::ACK) && !self.has(Self::SYN | Self::RST)
    }

    /// What its sequence number will be next.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.numbers
            .seq
            .wrapping_add(self.payload)
            .wrapping_add(self.fin() as u32)
    }

    #[inline(always)]
    const fn len(&self) -> usize {
        (self.numbers.offset_flags[0] >> 4) as usize * 4
    }
}

impl Face<'_> {
    /// The header up to the checksum, with these in it.
    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        let Numbers {
            seq,
            ack,
            window,
            offset_flags: [offset, flags],
        } = self.numbers;
        let [window0, window1] = (window as u16).to_be_bytes();
        let ports = self.flow.source.port() << 16 | self.flow.destination.port();
        let last = u32::from_ne_bytes([offset, flags, window0, window1]);
        [ports.to_be(), seq.to_be(), ack.to_be(), last]
    }
}

/// A whole TCP segment; none for whatever else, and for those with IP options or in fragments.
#[inline(always)]
pub fn head(ctx: &TcContext, version: Version) -> Option<Head> {
    let mut head = MaybeUninit::uninit();
    // SAFETY: it says whether it has filled it.
    (read_head(ctx, version, &mut head) != 0).then(|| unsafe { head.assume_init() })
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn read_head(ctx: &TcContext, version: Version, head: &mut MaybeUninit<Head>) -> u64 {
    match try_read_head(ctx, version) {
        Some(read) => {
            head.write(read);
            1
        }
        None => 0,
    }
}

#[inline(always)]
fn try_read_head(ctx: &TcContext, version: Version) -> Option<Head> {
    let (source, destination, total) = match version {
        Version::V4 => {
            let ip: Ipv4Hdr = load(ctx, 0).ok()?;
            let fragment = u16::from_be_bytes(ip.frags) & 0x3fff != 0;
            if ip.vihl != 0x45 || ip.proto != IpProto::Tcp as u8 || fragment {
                return None;
            }
            let total = u32::from(u16::from_be_bytes(ip.tot_len));
            let addr = |octets| Addr::from_v4(u32::from_ne_bytes(octets));
            (addr(ip.src_addr), addr(ip.dst_addr), total)
        }
        Version::V6 => {
            let ip: [u32; 10] = load(ctx, 0).ok()?;
            let [_, length, s0, s1, s2, s3, d0, d1, d2, d3] = ip;
            let [len0, len1, next, _] = length.to_ne_bytes();
            if next != IpProto::Tcp as u8 {
                return None;
            }
            let total = match u16::from_be_bytes([len0, len1]) {
                0 => 0,
                payload => u32::from(payload) + Ipv6Hdr::LEN as u32,
            };
            let (source, destination) = ([s0, s1, s2, s3], [d0, d1, d2, d3]);
            (Addr::from_v6(source), Addr::from_v6(destination), total)
        }
    };
    let header = tcp_offset(version);
    let [ports, seq, ack, last]: [u32; 4] = load(ctx, header).ok()?;
    let [offset, flags, window0, window1] = last.to_ne_bytes();
    let ports = u32::from_be(ports);
    let mut head = Head {
        flow: Flow {
            source: Endpoint::new(source, (ports >> 16) as u16),
            destination: Endpoint::new(destination, ports as u16),
        },
        numbers: Numbers {
            seq: u32::from_be(seq),
            ack: u32::from_be(ack),
            window: u16::from_be_bytes([window0, window1]).into(),
            offset_flags: [offset, flags],
        },
        payload: 0,
    };
    // A packet of more than 64 KiB has no length of its own.
    let total = match total {
        0 => ctx.len() - EthHdr::LEN as u32,
        total => total,
    };
    head.payload = total.saturating_sub((header + head.len()) as u32);
    Some(head)
}

/// What changes in the options.
#[derive(Clone, Copy)]
pub struct Options {
    /// Added to the timestamp.
    pub stamp: u32,
    /// Added to the echoed timestamp. None: nothing is known to echo.
    pub echo: Option<u32>,
    /// Added to the numbers of selective acknowledgments.
    pub sack: u32,
}

/// The timestamp of a segment, if it has one where Linux puts it.
#[inline(always)]
pub fn timestamp(ctx: &TcContext, version: Version, head: &Head) -> Option<u32> {
    let [value, _] = timestamps(ctx, tcp_offset(version), head.len())?;
    Some(u32::from_be(value))
}

/// What a segment's addresses and numbers are changed from, or into.
#[derive(Clone, Copy)]
pub struct Face<'a> {
    pub flow: &'a Flow,
    pub numbers: Numbers,
}

/// Gives a segment other addresses and numbers, checksums included. Its packet has an Ethernet
/// header.
#[inline(always)]
pub fn rewrite(
    ctx: &TcContext,
    version: Version,
    old: &Face<'_>,
    new: &Face<'_>,
) -> Result<(), Unreadable> {
    if rewrite_words(ctx, version, old, new) != 0
        || rewrite_addresses(ctx, version, old.flow, new.flow) != 0
    {
        return Err(Unreadable);
    }
    Ok(())
}

/// Of TCP's header, up to the checksum. A function of its own, as a program's stack has 512 bytes;
/// 1 is a failure.
#[inline(never)]
fn rewrite_words(ctx: &TcContext, version: Version, old: &Face<'_>, new: &Face<'_>) -> u64 {
    let at = tcp_offset(version);
    let (old, new) = (old.words(), new.words());
    let rewritten = difference(&old, &new).and_then(|sum| {
        store(ctx, at, &new)?;
        replace_sum(ctx, at, sum, 0)
    });
    rewritten.is_err().into()
}

#[inline(never)]
fn rewrite_addresses(ctx: &TcContext, version: Version, old: &Flow, new: &Flow) -> u64 {
    try_rewrite_addresses(ctx, version, old, new)
        .is_err()
        .into()
}

#[inline(always)]
fn try_rewrite_addresses(
    ctx: &TcContext,
    version: Version,
    old: &Flow,
    new: &Flow,
) -> Result<(), Unreadable> {
    let at = tcp_offset(version);
    match version {
        Version::V4 => {
            let old = [v4(&old.source), v4(&old.destination)];
            let new = [v4(&new.source), v4(&new.destination)];
            let sum = difference(&old, &new)?;
            store(ctx, offset_of!(Ipv4Hdr, src_addr), &new)?;
            let ip = EthHdr::LEN + offset_of!(Ipv4Hdr, check);
            ctx.l3_csum_replace(ip, 0, sum.into(), 0)
                .map_err(|_| Unreadable)?;
            replace_sum(ctx, at, sum, BPF_F_PSEUDO_HDR.into())
        }
        Version::V6 => {
            let source = offset_of!(Ipv6Hdr, src_addr);
            let source = replace_v6(ctx, source, &old.source, &new.source)?;
            let destination = offset_of!(Ipv6Hdr, dst_addr);
            let destination = replace_v6(ctx, destination, &old.destination, &new.destination)?;
            let sum = add_sums(source, destination);
            let flags = u64::from(BPF_F_PSEUDO_HDR);
            // Kernels that don't know the flag refuse it.
            replace_sum(ctx, at, sum, flags | BPF_F_IPV6)
                .or_else(|Unreadable| replace_sum(ctx, at, sum, flags))
        }
    }
}

/// What a router says of a packet that was too large for it: the start of that packet.
pub struct TooLarge {
    pub flow: Flow,
    pub seq: u32,
}

impl TooLarge {
    const V4: u8 = 3;
    const V4_CODE: u8 = 4;
    const V6: u8 = 2;
}

/// Where ICMP's header ends and the packet starts that it is about.
#[inline(always)]
const fn quoted(version: Version) -> usize {
    const ICMP_LEN: usize = 8;
    tcp_offset(version) + ICMP_LEN
}

#[inline(always)]
pub fn too_large(ctx: &TcContext, version: Version) -> Option<TooLarge> {
    let (protocol, icmp) = match version {
        Version::V4 => (offset_of!(Ipv4Hdr, proto), IpProto::Icmp),
        Version::V6 => (offset_of!(Ipv6Hdr, next_hdr), IpProto::Ipv6Icmp),
    };
    let found: u8 = load(ctx, protocol).ok()?;
    if found != icmp as u8 {
        return None;
    }
    let [kind, code]: [u8; 2] = load(ctx, tcp_offset(version)).ok()?;
    let quoted = quoted(version);
    let inner: u8 = load(ctx, quoted + protocol).ok()?;
    let told = match version {
        Version::V4 => kind == TooLarge::V4 && code == TooLarge::V4_CODE,
        Version::V6 => kind == TooLarge::V6,
    };
    if !told || inner != IpProto::Tcp as u8 {
        return None;
    }
    let (source, destination) = match version {
        Version::V4 => {
            let [source, destination]: [u32; 2] =
                load(ctx, quoted + offset_of!(Ipv4Hdr, src_addr)).ok()?;
            (Addr::from_v4(source), Addr::from_v4(destination))
        }
        Version::V6 => {
            let [source, destination]: [[u32; 4]; 2] =
                load(ctx, quoted + offset_of!(Ipv6Hdr, src_addr)).ok()?;
            (Addr::from_v6(source), Addr::from_v6(destination))
        }
    };
    let [ports, seq]: [u32; 2] = load(ctx, quoted + tcp_offset(version)).ok()?;
    let ports = u32::from_be(ports);
    Some(TooLarge {
        flow: Flow {
            source: Endpoint::new(source, (ports >> 16) as u16),
            destination: Endpoint::new(destination, ports as u16),
        },
        seq: u32::from_be(seq),
    })
}

/// Makes it speak of a packet of another leg, to the one who sent that. Its packet has an Ethernet
/// header.
#[inline(always)]
pub fn rewrite_too_large(
    ctx: &TcContext,
    version: Version,
    old: &TooLarge,
    new: &TooLarge,
) -> Result<(), Unreadable> {
    match rewrite_quoted(ctx, version, old, new) {
        0 => Ok(()),
        _ => Err(Unreadable),
    }
}

#[inline(never)]
fn rewrite_quoted(ctx: &TcContext, version: Version, old: &TooLarge, new: &TooLarge) -> u64 {
    try_rewrite_quoted(ctx, version, old, new).is_err().into()
}

#[inline(always)]
fn try_rewrite_quoted(
    ctx: &TcContext,
    version: Version,
    old: &TooLarge,
    new: &TooLarge,
) -> Result<(), Unreadable> {
    /// In both versions.
    const CHECKSUM: usize = 2;
    let (icmp, quoted) = (tcp_offset(version), quoted(version));
    let ports = |flow: &Flow| (flow.source.port() << 16 | flow.destination.port()).to_be();
    let tcp_old = [ports(&old.flow), old.seq.to_be()];
    let tcp_new = [ports(&new.flow), new.seq.to_be()];
    let mut sum = difference(&tcp_old, &tcp_new)?;
    store(ctx, quoted + tcp_offset(version), &tcp_new)?;
    let checksum = EthHdr::LEN + icmp + CHECKSUM;
    let to = &new.flow.source;
    match version {
        Version::V4 => {
            let old_addrs = [v4(&old.flow.source), v4(&old.flow.destination)];
            let new_addrs = [v4(to), v4(&new.flow.destination)];
            let addrs = difference(&old_addrs, &new_addrs)?;
            store(ctx, quoted + offset_of!(Ipv4Hdr, src_addr), &new_addrs)?;
            // The quoted header's own checksum makes up for it.
            let quoted = EthHdr::LEN + quoted + offset_of!(Ipv4Hdr, check);
            ctx.l3_csum_replace(quoted, 0, addrs.into(), 0)
                .map_err(|_| Unreadable)?;
            let outer = difference(&v4(&old.flow.source), &v4(to))?;
            store(ctx, offset_of!(Ipv4Hdr, dst_addr), &v4(to))?;
            let ip = EthHdr::LEN + offset_of!(Ipv4Hdr, check);
            ctx.l3_csum_replace(ip, 0, outer.into(), 0)
                .map_err(|_| Unreadable)?;
        }
        Version::V6 => {
            let outer = replace_v6(ctx, offset_of!(Ipv6Hdr, dst_addr), &old.flow.source, to)?;
            let source = quoted + offset_of!(Ipv6Hdr, src_addr);
            sum = add_sums(sum, replace_v6(ctx, source, &old.flow.source, to)?);
            let destination = quoted + offset_of!(Ipv6Hdr, dst_addr);
            let (old, new) = (&old.flow.destination, &new.flow.destination);
            sum = add_sums(sum, replace_v6(ctx, destination, old, new)?);
            ctx.l4_csum_replace(checksum, 0, outer.into(), BPF_F_PSEUDO_HDR.into())
                .map_err(|_| Unreadable)?;
        }
    }
    ctx.l4_csum_replace(checksum, 0, sum.into(), 0)
        .map_err(|_| Unreadable)
}

/// Puts in another address, and returns what that does to a checksum. One at a time, as a program's
/// stack has 512 bytes.
#[inline(always)]
fn replace_v6(
    ctx: &TcContext,
    at: usize,
    old: &Endpoint,
    new: &Endpoint,
) -> Result<u32, Unreadable> {
    let (old, new) = (old.addr().words(), new.addr().words());
    store(ctx, at, &new)?;
    difference(&old, &new)
}

/// Of two changes, as checksums add up.
#[inline(always)]
const fn add_sums(one: u32, other: u32) -> u32 {
    let (sum, carry) = one.overflowing_add(other);
    sum.wrapping_add(carry as u32)
}

/// Of linux/bpf.h since 6.16.
const BPF_F_IPV6: u64 = 1 << 7;

#[inline(always)]
const fn tcp_offset(version: Version) -> usize {
    match version {
        Version::V4 => Ipv4Hdr::LEN,
        Version::V6 => Ipv6Hdr::LEN,
    }
}

#[inline(always)]
fn v4(endpoint: &Endpoint) -> u32 {
    let [_, _, _, word] = endpoint.addr().words();
    word
}

/// The options as all known stacks send them after the handshake: timestamps, then selective
/// acknowledgments, each behind two of padding. What comes otherwise is left alone.
const PADDED_TIMESTAMPS: u32 = u32::from_ne_bytes([1, 1, 8, 10]);
const PADDED_SACK: [u8; 3] = [1, 1, 5];
/// Words of the edges of four blocks, the most that fit.
const SACK_WORDS: usize = 8;

/// The timestamp and its echo, in network order.
#[inline(always)]
fn timestamps(ctx: &TcContext, at: usize, len: usize) -> Option<[u32; 2]> {
    if len < TcpHdr::LEN + 12 {
        return None;
    }
    let [leading, value, echo]: [u32; 3] = load(ctx, at + TcpHdr::LEN).ok()?;
    (leading == PADDED_TIMESTAMPS).then_some([value, echo])
}

/// Changes a segment's options, checksum included. Its packet has an Ethernet header.
#[inline(always)]
pub fn rewrite_options(
    ctx: &TcContext,
    version: Version,
    head: &Head,
    options: &Options,
) -> Result<(), Unreadable> {
    let (at, end) = (tcp_offset(version), tcp_offset(version) + head.len());
    let mut next = at + TcpHdr::LEN;
    if let Some(old) = timestamps(ctx, at, head.len()) {
        let [value, echo] = old;
        let new = [add(value, options.stamp), echoed(echo, options.echo)];
        let sum = difference(&old, &new)?;
        store(ctx, next + 4, &new)?;
        replace_sum(ctx, at, sum, 0)?;
        next += 12;
    }
    if next < end && rewrite_sack(ctx, at, next, end - next, options.sack) != 0 {
        return Err(Unreadable);
    }
    Ok(())
}

/// Adds to the numbers of selective acknowledgments, if there are any at `next`; 1 is a failure.
#[inline(never)]
fn rewrite_sack(ctx: &TcContext, at: usize, next: usize, left: usize, plus: u32) -> u64 {
    try_rewrite_sack(ctx, at, next, left, plus).is_err().into()
}

#[inline(always)]
fn try_rewrite_sack(
    ctx: &TcContext,
    at: usize,
    next: usize,
    left: usize,
    plus: u32,
) -> Result<(), Unreadable> {
    let [one, two, kind, len]: [u8; 4] = load(ctx, next)?;
    let words = usize::from(len) / 4;
    if [one, two, kind] != PADDED_SACK || 4 + words * 4 > left {
        return Ok(());
    }
    let mut sum = 0;
    for index in 0..SACK_WORDS {
        if index >= words {
            break;
        }
        let edge = next + 4 + index * 4;
        let old: u32 = load(ctx, edge)?;
        let new = add(old, plus);
        store(ctx, edge, &new)?;
        sum = add_sums(sum, difference(&old, &new)?);
    }
    replace_sum(ctx, at, sum, 0)
}

/// Adds to a number of network order.
#[inline(always)]
const fn add(number: u32, plus: u32) -> u32 {
    u32::from_be(number).wrapping_add(plus).to_be()
}

/// Zero says that there is nothing to echo.
#[inline(always)]
const fn echoed(echo: u32, plus: Option<u32>) -> u32 {
    match plus {
        Some(plus) if echo != 0 => add(echo, plus),
        _ => 0,
    }
}

/// Overwrites bytes at an offset from the network header of a packet that has an Ethernet header.
#[inline(always)]
fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), Unreadable> {
    ctx.store(EthHdr::LEN + offset, value, 0)
        .map_err(|_| Unreadable)
}

/// What changing `old` into `new` does to a checksum.
#[inline(always)]
fn difference<T>(old: &T, new: &T) -> Result<u32, Unreadable> {
    let len = size_of::<T>() as u32;
    let (old, new) = (from_ref(old).cast_mut(), from_ref(new).cast_mut());
    // SAFETY: both live on this stack for `len` bytes, and the helper only reads them.
    let sum = unsafe { bpf_csum_diff(old.cast(), len, new.cast(), len, 0) };
    u32::try_from(sum).map_err(|_| Unreadable)
}

/// `at` is TCP's header.
#[inline(always)]
fn replace_sum(ctx: &TcContext, at: usize, sum: u32, flags: u64) -> Result<(), Unreadable> {
    let at = EthHdr::LEN + at + offset_of!(TcpHdr, check);
    ctx.l4_csum_replace(at, 0, sum.into(), flags)
        .map_err(|_| Unreadable)
}

/// `T` is plain bytes: any content is a valid value.
#[inline(always)]
fn load<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Unreadable> {
    let mut value = MaybeUninit::<T>::uninit();
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the helper writes exactly the bytes of `value`, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            skb.cast(),
            offset as u32,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        )
    };
    if failed != 0 {
        return Err(Unreadable);
    }
    // SAFETY: the helper filled it.
    Ok(unsafe { value.assume_init() })
}
