//! Cutting bytes out of the front of a segment's or a datagram's payload, and putting some in front of it.
//!
//! What follows goes to their place, and the end goes. Moving the headers forward instead is
//! cheaper, but the kernel's `csum_start` stays where it was: a checksum that is yet to be made
//! (CHECKSUM_PARTIAL, on veth and virtio) would then be made wrong. Where that can be avoided,
//! [`datagram`](super::datagram) does it.

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use network_types::{
    eth::EthHdr,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};
use proxy_common::{
    checksum::{cut_odd, fold},
    datagram::spp,
    header,
};

use super::{plain_offset, replace_sum, segment::Segment, sum};
use crate::{
    bounds::bounded,
    ctx::{self, Link, Unreadable, Version},
    maps::{self, Scratch},
};

/// The most that may follow what is cut out: it passes through a buffer, and the kernel resizes no packet to more than
/// some 16,000 bytes (`BPF_SKB_MAX_LEN`), with all of its headers.
pub const MOST: u64 = 15_900;
/// The buffer's size: a header that is put in front passes through as well.
pub const BODY: usize = MOST as usize + spp::LEN;

/// Cuts the first `count` bytes out of the payload, and leaves them in `scratch.line`. Lengths, the sequence
/// number and checksums are right afterwards; the packet has an Ethernet header, and nothing between that of
/// IP and TCP's, which is in `scratch.header`.
#[inline(always)]
pub fn cut(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    count: u32,
) -> Result<(), Unreadable> {
    sum_removed(ctx, version, scratch, count, IpProto::Tcp)?;
    // All at once: each of the following steps would make room for itself.
    ctx::gather(ctx)?;
    move_up(ctx, &scratch.segment, count)?;
    end(ctx, &scratch.segment, count)?;
    fix_headers(ctx, version, &scratch.segment, count, scratch.removed)
}

/// What it does to a checksum that is of all bytes, into `scratch.removed`.
#[inline(never)]
pub fn sum_removed(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    count: u32,
    protocol: IpProto,
) -> Result<(), Unreadable> {
    let Segment {
        tuple,
        at,
        len,
        payload,
        ..
    } = scratch.segment;
    scratch.line.bytes = [0; header::MAX_LEN / 4];
    scratch.line.len = count;
    let line: *mut u8 = (&raw mut scratch.line.bytes).cast();
    let bytes = bounded::<1, { header::MAX_LEN as u64 }>(count.into()).ok_or(Unreadable)?;
    ctx::load_payload(ctx, Link::ETHERNET, (at + len) as usize, line, bytes)?;
    let line = sum(&scratch.line.bytes, 0);
    let removed = u32::from(!fold(line));
    scratch.removed = removed;
    if count & 1 == 0 {
        return Ok(());
    }
    // The sum of what follows is all that isn't known of the old checksum.
    let header: *mut u8 = (&raw mut scratch.header).cast();
    let check = match protocol {
        IpProto::Udp => offset_of!(UdpHdr, check),
        _ => offset_of!(TcpHdr, check),
    };
    // SAFETY: both are within the buffer, at a multiple of two.
    let check = unsafe { &mut *header.add(check).cast::<u16>() };
    let total = !*check;
    *check = 0;
    let [source, destination] = tuple.addresses().map(|addr| addr.words());
    // Its pseudo-header is of the version that it came by.
    let known = match version {
        Version::V4 => sum(&[source[3], destination[3]], line),
        Version::V6 => sum(&[source, destination], line),
    };
    let known = sum(&scratch.header, known);
    let protocol = u32::from(protocol as u8).to_be();
    let known = sum(&[(len + payload).to_be(), protocol], known);
    let rest = fold(u32::from(total) + u32::from(!fold(known)));
    scratch.removed = cut_odd(removed, rest);
    Ok(())
}

/// The bytes behind the cut to its place. The packet is to be ended by [`end`].
#[inline(always)]
pub fn move_up(ctx: &TcContext, segment: &Segment, count: u32) -> Result<(), Unreadable> {
    let start = segment.at + segment.len;
    let rest = segment.payload.checked_sub(count).ok_or(Unreadable)?;
    if rest > 0 {
        let body = maps::body().ok_or(Unreadable)?;
        let len = bounded::<1, MOST>(rest.into()).ok_or(Unreadable)?;
        ctx::load_payload(ctx, Link::ETHERNET, (start + count) as usize, body, len)?;
        let len = bounded::<1, MOST>(rest.into()).ok_or(Unreadable)?;
        ctx::store_bytes(ctx, start as usize, body, len)?;
    }
    Ok(())
}

/// Behind what has moved. The stack does the same with whatever is behind what IP's header says.
#[inline(always)]
pub fn end(ctx: &TcContext, segment: &Segment, count: u32) -> Result<(), Unreadable> {
    let rest = segment.payload.checked_sub(count).ok_or(Unreadable)?;
    ctx::set_len(ctx, segment.at + segment.len + rest)
}

/// IP's, as its packet of `old` bytes has become one of `new`.
#[inline(always)]
fn fix_lengths(ctx: &TcContext, version: Version, old: u32, new: u32) -> Result<(), Unreadable> {
    if let Version::V4 = version {
        let [old, new] = [old, new].map(|len| (len as u16).to_be());
        ctx::store(ctx, offset_of!(Ipv4Hdr, tot_len), &new)?;
        let check = EthHdr::LEN + offset_of!(Ipv4Hdr, check);
        return ctx
            .l3_csum_replace(check, old.into(), new.into(), size_of::<u16>() as u64)
            .map_err(|_| Unreadable);
    }
    let len = (new - Ipv6Hdr::LEN as u32) as u16;
    ctx::store(ctx, offset_of!(Ipv6Hdr, payload_len), &len.to_be())
}

#[inline(always)]
fn fix_headers(
    ctx: &TcContext,
    version: Version,
    segment: &Segment,
    count: u32,
    removed: u32,
) -> Result<(), Unreadable> {
    let at = plain_offset(version);
    let total = segment.at + segment.len + segment.payload;
    fix_lengths(ctx, version, total, total - count)?;
    let [old, new] = [segment.seq, segment.seq.wrapping_add(count)].map(u32::to_be);
    let check = at + offset_of!(TcpHdr, check);
    let before: u16 = ctx::load(ctx, check)?;
    ctx::store(ctx, at + offset_of!(TcpHdr, seq), &new)?;
    replace_sum(ctx, check, super::difference(&old, &new)?, 0)?;
    // The helper leaves those alone that are yet to be made: there only the length counts.
    let is_partial = old != new && ctx::load::<u16>(ctx, check)? == before;
    let l4 = segment.len + segment.payload;
    let [old, new] = [l4, l4 - count].map(u32::to_be);
    let length = super::difference(&old, &new)?;
    replace_sum(ctx, check, length, BPF_F_PSEUDO_HDR.into())?;
    if is_partial {
        return Ok(());
    }
    // The kernel's sum of the whole packet, if there is one, was kept right as the bytes moved.
    replace_sum(ctx, check, removed, BPF_F_PSEUDO_HDR.into())
}
