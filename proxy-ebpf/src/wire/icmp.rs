//! ICMP errors: a router's or a host's word on a packet, whose start they quote.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};
use proxy_common::{Addr, checksum, flow::Tuple};

use super::{
    datagram::word, difference, load_addresses, plain_offset, replace_ip_sum, replace_pseudo_sum,
    replace_sum, store_addresses,
};
use crate::ctx::{self, Unreadable, Version};

/// ICMP's header, behind which the quoted packet starts.
pub const LEN: usize = 8;
/// Of ICMP's header, in both versions.
const CHECKSUM: usize = 2;
/// The same, as far as it says something.
const MTU: usize = 6;

const V4_UNREACHABLE: u8 = 3;
const V6_UNREACHABLE: u8 = 1;
const V6_TOO_BIG: u8 = 2;
/// What else hosts and routers say of a packet to its source: of its time to live, or the time to put it together of
/// its pieces, of its headers, of a better way, or that it comes too fast.
const V4_OTHERS: [u8; 4] = [4, 5, 11, 12];
/// The same, as far as it is sent on.
const V6_OTHERS: [u8; 2] = [3, 4];

/// Codes of what is unreachable, of RFC 792 and RFC 1812.
mod v4 {
    pub const HOST: u8 = 1;
    pub const PORT: u8 = 3;
    pub const TOO_BIG: u8 = 4;
    pub const NET_PROHIBITED: u8 = 9;
    pub const HOST_PROHIBITED: u8 = 10;
    pub const PROHIBITED: u8 = 13;
}

/// The same of RFC 4443.
mod v6 {
    pub const PROHIBITED: u8 = 1;
    pub const HOST: u8 = 3;
    pub const PORT: u8 = 4;
}

#[inline(always)]
const fn quoted(version: Version) -> usize {
    plain_offset(version) + LEN
}

/// The tuple of the TCP segment, or the datagram, that an error is about.
#[inline(always)]
pub fn about(ctx: &TcContext, version: Version, of: IpProto) -> Option<Tuple> {
    ctx::gather_headers(ctx);
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
    if !is_error || inner != of as u8 {
        return None;
    }
    if let Version::V4 = version {
        let first: u8 = ctx::load(ctx, quoted).ok()?;
        if first != 0x45 {
            return None;
        }
    }
    let [source, destination] = load_addresses(ctx, version, quoted).ok()?;
    let ports: [u16; 2] = ctx::load(ctx, quoted + plain_offset(version)).ok()?;
    Some(Tuple::from_wire(source, destination, ports))
}

/// The datagram of an error that isn't for its balancer: it is none of those that [`about`] tells of, or quotes a
/// piece in IPv6. A later piece has no ports.
#[inline(always)]
pub fn about_lost(ctx: &TcContext, version: Version) -> Option<Tuple> {
    const FRAGMENT: u8 = 44;
    const FRAGMENT_LEN: usize = 8;
    const OFFSET: u16 = 0xfff8;
    let kind: u8 = ctx::load(ctx, plain_offset(version)).ok()?;
    let quoted = quoted(version);
    let mut at = quoted + plain_offset(version);
    let mut has_ports = true;
    let mut protocol: u8 = match version {
        Version::V4 => ctx::load(ctx, quoted + offset_of!(Ipv4Hdr, proto)),
        Version::V6 => ctx::load(ctx, quoted + offset_of!(Ipv6Hdr, next_hdr)),
    }
    .ok()?;
    let is_error = match version {
        Version::V4 => V4_OTHERS.contains(&kind),
        Version::V6 if protocol == FRAGMENT => {
            let [inner, _, high, low]: [u8; 4] = ctx::load(ctx, at).ok()?;
            (protocol, at) = (inner, at + FRAGMENT_LEN);
            has_ports = u16::from_be_bytes([high, low]) & OFFSET == 0;
            matches!(kind, V6_UNREACHABLE | V6_TOO_BIG) || V6_OTHERS.contains(&kind)
        }
        Version::V6 => V6_OTHERS.contains(&kind),
    };
    if !is_error || protocol != IpProto::Udp as u8 {
        return None;
    }
    let [source, destination] = load_addresses(ctx, version, quoted).ok()?;
    let ports: [u16; 2] = match has_ports {
        true => ctx::load(ctx, at).ok()?,
        false => [0, 0],
    };
    Some(Tuple::from_wire(source, destination, ports))
}

/// What an error is in the other version: its type and code, and the word behind its checksum, as they lie in memory.
/// That word tells what a link takes where a packet is too big for it: the same datagram's may have as much more or less
/// as the headers of IP differ in.
#[inline(always)]
pub fn kind_of_other(ctx: &TcContext, version: Version) -> Result<(u16, u32), Unreadable> {
    const LONGER: u16 = (Ipv6Hdr::LEN - Ipv4Hdr::LEN) as u16;
    let at = plain_offset(version);
    let [kind, code]: [u8; 2] = ctx::load(ctx, at)?;
    // An MTU of IPv6 has 32 bits, the first half of which is 0.
    let takes = u16::from_be(ctx::load(ctx, at + MTU)?);
    let (other, takes) = match version {
        Version::V4 => match code {
            v4::TOO_BIG => ([V6_TOO_BIG, 0], takes.saturating_add(LONGER)),
            v4::PORT => ([V6_UNREACHABLE, v6::PORT], 0),
            v4::NET_PROHIBITED | v4::HOST_PROHIBITED | v4::PROHIBITED => {
                ([V6_UNREACHABLE, v6::PROHIBITED], 0)
            }
            _ => ([V6_UNREACHABLE, v6::HOST], 0),
        },
        Version::V6 => match (kind, code) {
            (V6_TOO_BIG, _) => ([V4_UNREACHABLE, v4::TOO_BIG], takes.saturating_sub(LONGER)),
            (_, v6::PORT) => ([V4_UNREACHABLE, v4::PORT], 0),
            (_, v6::PROHIBITED) => ([V4_UNREACHABLE, v4::PROHIBITED], 0),
            _ => ([V4_UNREACHABLE, v4::HOST], 0),
        },
    };
    Ok((u16::from_ne_bytes(other), word(0, takes.to_be())))
}

/// Makes an error about `old` one about `new`, from `sender` (none: whoever it is from) to the source of
/// `new`. Its packet has an Ethernet header.
#[inline(never)]
pub fn translate(
    ctx: &TcContext,
    version: Version,
    old: &Tuple,
    new: &Tuple,
    sender: Option<&Addr>,
) -> Result<(), Unreadable> {
    let (quoted, check) = (quoted(version), plain_offset(version) + CHECKSUM);
    store_addresses(ctx, version, quoted, new.both_addresses())?;
    ctx::store(ctx, quoted + plain_offset(version), &new.ports())?;
    let addresses = difference(old.both_addresses(), new.both_addresses())?;
    let mut inner = difference(&old.ports(), &new.ports())?;
    match version {
        // The quoted header's own checksum makes up for its addresses.
        Version::V4 => replace_ip_sum(ctx, version, quoted, addresses)?,
        Version::V6 => inner = checksum::add(inner, addresses),
    }
    replace_sum(ctx, check, inner, 0)?;
    let before = load_addresses(ctx, version, 0)?;
    let [target, _] = new.addresses();
    let after = [*sender.unwrap_or(&before[0]), *target];
    store_addresses(ctx, version, 0, &after)?;
    let outer = difference(&before, &after)?;
    match version {
        Version::V4 => replace_ip_sum(ctx, version, 0, outer),
        Version::V6 => replace_pseudo_sum(ctx, version, check, outer, 0),
    }
}
