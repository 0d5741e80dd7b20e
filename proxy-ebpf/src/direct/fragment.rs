//! Segments that are cut into pieces. The ports are in the first piece, and the checksum there is of
//! all of them; the others go where it went. The stack puts them together.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};
use proxy_common::{
    Addr, Counter,
    flow::{Piece, Pieces},
};

use super::{enter, first};
use crate::{
    ctx::{self, Link, Version},
    maps::{self, Scratch},
    verdict::Verdict,
    wire::{self, rewrite, segment},
};

/// A piece of a TCP segment.
struct Fragment {
    piece: Piece,
    is_first: bool,
    /// Where what it carries is.
    at: u32,
}

/// A packet that is no whole segment.
#[inline(always)]
pub fn fragment(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Verdict, Verdict> {
    let read = match version {
        Version::V4 => read_v4(ctx),
        Version::V6 => read_v6(ctx),
    };
    match read {
        None => Ok(Verdict::FOREIGN),
        Some(first) if first.is_first => self::first(ctx, version, link, &first, scratch),
        Some(later) => self::later(ctx, version, link, &later.piece),
    }
}

#[inline(always)]
fn read_v4(ctx: &TcContext) -> Option<Fragment> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let ip: Ipv4Hdr = ctx::load(ctx, 0).ok()?;
    let place = u16::from_be_bytes(ip.frags) & (MORE | OFFSET);
    if ip.proto != IpProto::Tcp as u8 || place == 0 {
        return None;
    }
    let addr = |octets| Addr::from_v4(u32::from_ne_bytes(octets));
    Some(Fragment {
        piece: Piece {
            addresses: [addr(ip.src_addr), addr(ip.dst_addr)],
            id: u16::from_ne_bytes(ip.id).into(),
        },
        is_first: place & OFFSET == 0,
        at: u32::from(ip.vihl & 0xf) * 4,
    })
}

#[inline(always)]
fn read_v6(ctx: &TcContext) -> Option<Fragment> {
    const FRAGMENT: u8 = 44;
    const HEADER_LEN: u32 = 8;
    const OFFSET: u16 = 0xfff8;
    let next: u8 = ctx::load(ctx, offset_of!(Ipv6Hdr, next_hdr)).ok()?;
    if next != FRAGMENT {
        return None;
    }
    let [place, id]: [u32; 2] = ctx::load(ctx, Ipv6Hdr::LEN).ok()?;
    let [protocol, _, high, low] = place.to_ne_bytes();
    if protocol != IpProto::Tcp as u8 {
        return None;
    }
    let addresses = ctx::load(ctx, offset_of!(Ipv6Hdr, src_addr)).ok()?;
    Some(Fragment {
        piece: Piece { addresses, id },
        is_first: u16::from_be_bytes([high, low]) & OFFSET == 0,
        at: Ipv6Hdr::LEN as u32 + HEADER_LEN,
    })
}

#[inline(always)]
fn first(
    ctx: &TcContext,
    version: Version,
    link: Link,
    fragment: &Fragment,
    scratch: &mut Scratch,
) -> Result<Verdict, Verdict> {
    let (addresses, segment) = (fragment.piece.addresses, &mut scratch.segment);
    segment::read_tcp(ctx, link, version, segment, addresses, fragment.at, 0)
        .ok_or(Verdict::FOREIGN)?;
    let Some(flow) = maps::find_up(&segment.tuple) else {
        first::in_fragments(ctx, scratch);
        return Ok(Verdict::FOREIGN);
    };
    // SAFETY: written before the element is in the map.
    let flow = unsafe { &(*flow).rewrite };
    let pieces = Pieces {
        addresses: *flow.to.both_addresses(),
        difference: flow.addresses,
    };
    maps::remember_pieces(&fragment.piece, &pieces);
    ctx::ensure_ethernet(ctx, link, version)?;
    rewrite::apply(ctx, version, fragment.at, flow)?;
    Ok(enter(ctx, Counter::DirectUp)?)
}

#[inline(always)]
fn later(ctx: &TcContext, version: Version, link: Link, piece: &Piece) -> Result<Verdict, Verdict> {
    let pieces = maps::pieces(piece).ok_or(Verdict::FOREIGN)?;
    ctx::ensure_ethernet(ctx, link, version)?;
    wire::store_addresses(ctx, version, 0, &pieces.addresses)?;
    wire::replace_ip_sum(ctx, version, 0, pieces.difference)?;
    Ok(enter(ctx, Counter::DirectUp)?)
}
