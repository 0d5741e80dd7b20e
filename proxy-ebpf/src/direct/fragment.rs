//! Segments that are cut into pieces. The ports are in the first piece, and the checksum there is of
//! all of them; the others go where it went. The stack puts them together.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{
    Counter,
    flow::{Piece, Pieces},
};

use super::first;
use crate::{
    ctx::{self, Link, Version},
    enter::enter,
    maps::{self, Scratch},
    verdict::Verdict,
    wire::{
        self,
        fragment::{self, Fragment},
        rewrite, segment,
    },
};

/// A packet that is no whole segment.
#[inline(always)]
pub fn fragment(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Verdict, Verdict> {
    match fragment::read(ctx, version, IpProto::Tcp) {
        None => Ok(Verdict::FOREIGN),
        Some(first) if first.is_first => self::first(ctx, version, link, &first, scratch),
        Some(later) => self::later(ctx, version, link, &later.piece),
    }
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
