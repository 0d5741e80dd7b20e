//! ICMP errors: a router's or a host's word on a packet, whose start they quote.

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use network_types::{
    eth::EthHdr,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};
use proxy_common::{Addr, checksum, flow::Tuple};

use super::{BPF_F_IPV6, difference, plain_offset};
use crate::ctx::{self, Unreadable, Version};

/// ICMP's header, behind which the quoted packet starts.
const LEN: usize = 8;
/// Of ICMP's header, in both versions.
const CHECKSUM: usize = 2;

const V4_UNREACHABLE: u8 = 3;
const V6_UNREACHABLE: u8 = 1;
const V6_TOO_BIG: u8 = 2;

#[inline(always)]
const fn quoted(version: Version) -> usize {
    plain_offset(version) + LEN
}

/// The tuple of the TCP segment that an error is about.
#[inline(always)]
pub fn about(ctx: &TcContext, version: Version) -> Option<Tuple> {
    let protocol = match version {
        Version::V4 => offset_of!(Ipv4Hdr, proto),
        Version::V6 => offset_of!(Ipv6Hdr, next_hdr),
    };
    if let Version::V4 = version {
        let vihl: u8 = ctx::load(ctx, 0).ok()?;
        if vihl & 0xf != 5 {
            return None;
        }
    }
    let kind: u8 = ctx::load(ctx, plain_offset(version)).ok()?;
    let quoted = quoted(version);
    let inner: u8 = ctx::load(ctx, quoted + protocol).ok()?;
    let is_error = match version {
        Version::V4 => kind == V4_UNREACHABLE,
        Version::V6 => kind == V6_UNREACHABLE || kind == V6_TOO_BIG,
    };
    if !is_error || inner != IpProto::Tcp as u8 {
        return None;
    }
    let [source, destination] = match version {
        Version::V4 => {
            let first: u8 = ctx::load(ctx, quoted).ok()?;
            if first != 0x45 {
                return None;
            }
            let addrs: [u32; 2] = ctx::load(ctx, quoted + offset_of!(Ipv4Hdr, src_addr)).ok()?;
            addrs.map(Addr::from_v4)
        }
        Version::V6 => {
            let addrs: [[u32; 4]; 2] =
                ctx::load(ctx, quoted + offset_of!(Ipv6Hdr, src_addr)).ok()?;
            addrs.map(Addr::from_v6)
        }
    };
    let ports: [u16; 2] = ctx::load(ctx, quoted + plain_offset(version)).ok()?;
    Some(Tuple::from_wire(source, destination, ports))
}

/// Makes an error about `old` one about `new`, from `sender` (none: whoever it is from) to the source of
/// `new`. Its packet has an Ethernet header.
#[inline(always)]
pub fn translate(
    ctx: &TcContext,
    version: Version,
    old: &Tuple,
    new: &Tuple,
    sender: Option<&Addr>,
) -> Result<(), Unreadable> {
    match version {
        Version::V4 => translate_v4(ctx, old, new, sender),
        Version::V6 => translate_v6(ctx, old, new, sender),
    }
}

#[inline(never)]
fn translate_v4(
    ctx: &TcContext,
    old: &Tuple,
    new: &Tuple,
    sender: Option<&Addr>,
) -> Result<(), Unreadable> {
    const VERSION: Version = Version::V4;
    let v4 = |tuple: &Tuple| tuple.addresses().map(|addr| addr.words()[3]);
    let (quoted, [from, to]) = (quoted(VERSION), [v4(old), v4(new)]);
    // The quoted header's checksum makes up for its addresses, so only the ports count further out.
    let at = quoted + offset_of!(Ipv4Hdr, src_addr);
    ctx::store(ctx, at, &to)?;
    let addrs = difference(&from, &to)?;
    let check = EthHdr::LEN + quoted + offset_of!(Ipv4Hdr, check);
    ctx.l3_csum_replace(check, 0, addrs.into(), 0)
        .map_err(|_| Unreadable)?;
    let ports = quote_ports(ctx, VERSION, old, new)?;
    ctx.l4_csum_replace(checksum_at(VERSION), 0, ports.into(), 0)
        .map_err(|_| Unreadable)?;
    let at = offset_of!(Ipv4Hdr, src_addr);
    let outer: [u32; 2] = ctx::load(ctx, at)?;
    let source = sender.map_or(outer[0], |sender| sender.words()[3]);
    let changed = [source, to[0]];
    ctx::store(ctx, at, &changed)?;
    let check = EthHdr::LEN + offset_of!(Ipv4Hdr, check);
    ctx.l3_csum_replace(check, 0, difference(&outer, &changed)?.into(), 0)
        .map_err(|_| Unreadable)
}

#[inline(never)]
fn translate_v6(
    ctx: &TcContext,
    old: &Tuple,
    new: &Tuple,
    sender: Option<&Addr>,
) -> Result<(), Unreadable> {
    const VERSION: Version = Version::V6;
    let quoted = quoted(VERSION);
    let [source, destination] = new.addresses();
    let [old_source, old_destination] = old.addresses();
    let at = quoted + offset_of!(Ipv6Hdr, src_addr);
    ctx::store(ctx, at, source)?;
    ctx::store(ctx, at + size_of::<Addr>(), destination)?;
    let mut inner = quote_ports(ctx, VERSION, old, new)?;
    inner = checksum::add(inner, difference(old_source, source)?);
    inner = checksum::add(inner, difference(old_destination, destination)?);
    ctx.l4_csum_replace(checksum_at(VERSION), 0, inner.into(), 0)
        .map_err(|_| Unreadable)?;
    let at = offset_of!(Ipv6Hdr, src_addr);
    let mut outer = 0;
    if let Some(sender) = sender {
        let before: Addr = ctx::load(ctx, at)?;
        ctx::store(ctx, at, sender)?;
        outer = difference(&before, sender)?;
    }
    let at = at + size_of::<Addr>();
    let before: Addr = ctx::load(ctx, at)?;
    ctx::store(ctx, at, source)?;
    outer = checksum::add(outer, difference(&before, source)?);
    let flags = u64::from(BPF_F_PSEUDO_HDR);
    // Kernels that don't know the flag refuse it.
    ctx.l4_csum_replace(checksum_at(VERSION), 0, outer.into(), flags | BPF_F_IPV6)
        .or_else(|_| ctx.l4_csum_replace(checksum_at(VERSION), 0, outer.into(), flags))
        .map_err(|_| Unreadable)
}

#[inline(always)]
const fn checksum_at(version: Version) -> usize {
    EthHdr::LEN + plain_offset(version) + CHECKSUM
}

/// The ports of the quoted segment, and what they do to a checksum.
#[inline(always)]
fn quote_ports(
    ctx: &TcContext,
    version: Version,
    old: &Tuple,
    new: &Tuple,
) -> Result<u32, Unreadable> {
    let (old, new) = (old.ports(), new.ports());
    ctx::store(ctx, quoted(version) + plain_offset(version), &new)?;
    difference(&old, &new)
}
