//! Datagrams on their way: other addresses and ports, and a header of the PROXY protocol cut out or put in front.
//!
//! Payload and headers are written once each, as each call of the kernel counts here. Why the payload moves as a rule
//! and not the headers, [`cut`](super::cut) says.

use core::{mem::offset_of, ptr};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_csum_diff, programs::TcContext};
use network_types::{
    ip::{IpProto, Ipv6Hdr},
    udp::UdpHdr,
};
use proxy_common::{
    checksum::{add, change, fold},
    datagram::spp,
    flow::{Kept, Tuple},
    header,
};

use super::{
    UNSET,
    change::Change,
    cut, family, halves,
    options::Header,
    plain_offset, proxy, replace_pseudo_sum, replace_sum,
    skb::{self, Summed},
};
use crate::{
    bounds::bounded,
    ctx::{self, Link, Unreadable, Version},
    maps::{self, Scratch},
};

/// Of a datagram's checksum, behind where its header is.
pub const CHECK: usize = offset_of!(UdpHdr, check);

/// Whether what the packet is to become is of the other version of IP.
#[inline(always)]
pub fn is_of_other(version: Version, to: &Tuple) -> bool {
    Version::of(to.addresses()[1]) != version
}

/// Gives a datagram the tuple `scratch.rewrite.to`. It has an Ethernet header, and nothing between the fixed header
/// of IP and UDP's; so have those below.
#[inline(always)]
pub fn rewrite(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> Result<(), Unreadable> {
    scratch.removed = 0;
    scratch.is_closed_up = false;
    write_headers(ctx, version, scratch, 0)
}

/// The same, and cuts the header that `scratch.proxy` is about, and `scratch.line` has, out of the payload. The
/// packet is then as long as it was, until [`cut::end`], unless `scratch.is_closed_up`.
#[inline(always)]
pub fn cut(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> Result<(), Unreadable> {
    let count = scratch.proxy.len;
    let summed = skb::summed(ctx);
    scratch.is_closed_up = may_close_up(version, scratch, summed);
    if !has_no_sum(scratch, summed) {
        scratch.removed = removed(ctx, version, scratch, count)?;
    }
    if !scratch.is_closed_up {
        // All at once: each of the following steps would make room for itself.
        ctx::gather(ctx)?;
        cut::move_up(ctx, &scratch.segment, count)?;
    }
    write_headers(ctx, version, scratch, (count as u16).wrapping_neg())
}

/// What cutting out the header does to a checksum.
#[inline(always)]
fn removed(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    count: u32,
) -> Result<u32, Unreadable> {
    if count & 1 == 0 {
        let sum = sum_even(&scratch.line, scratch.proxy.front + count)?;
        return Ok(u32::from(!fold(sum)));
    }
    scratch.header = Header::default();
    let header: *mut u8 = (&raw mut scratch.header).cast();
    let at = scratch.segment.at as usize;
    ctx::load_bytes(ctx, at, header, UdpHdr::LEN as u64)?;
    cut::sum_removed(ctx, version, scratch, count, IpProto::Udp)?;
    Ok(scratch.removed)
}

/// Whether nobody but this host's stack gets the packet, which has no use for where the kernel has noted its headers to
/// be. Where a checksum is yet to be made it has: from there on.
#[inline(always)]
fn may_close_up(version: Version, scratch: &Scratch, summed: Summed) -> bool {
    let may_lack_sum = version == Version::V4;
    scratch.in_place
        && scratch.device == 0
        && match summed {
            Summed::Whole => true,
            Summed::Partial => may_lack_sum,
            Summed::Other => false,
        }
}

/// Whether it goes on without a checksum, as the one that is yet to be made would be made in the wrong place.
#[inline(always)]
fn has_no_sum(scratch: &Scratch, summed: Summed) -> bool {
    scratch.is_closed_up && summed == Summed::Partial
}

/// The same, and puts an SPP header in front of the payload.
#[inline(always)]
pub fn put_spp(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    header: &[u16; spp::LEN / 2],
) -> Result<(), Unreadable> {
    const LEN: u32 = spp::LEN as u32;
    let body = maps::body().ok_or(Unreadable)?;
    // SAFETY: the buffer has room for the longest payload behind it.
    let behind = unsafe {
        body.cast::<[u16; spp::LEN / 2]>().write(*header);
        body.add(spp::LEN)
    };
    scratch.removed = header.iter().fold(0, |sum, half| sum + u32::from(*half));
    let payload = scratch.segment.payload;
    scratch.is_closed_up = false;
    let start = scratch.segment.at + scratch.segment.len;
    if payload > 0 {
        let len = bounded::<1, { cut::MOST }>(payload.into()).ok_or(Unreadable)?;
        ctx::load_payload(ctx, Link::ETHERNET, start as usize, behind, len)?;
    }
    ctx::set_len(ctx, start + LEN + payload)?;
    let len = bounded::<1, { cut::BODY as u64 }>((LEN + payload).into()).ok_or(Unreadable)?;
    ctx::store_bytes(ctx, start as usize, body, len)?;
    write_headers(ctx, version, scratch, LEN as u16)
}

/// The sum of the first `count` bytes, an even number, of a payload or header.
#[inline(always)]
fn sum_even(line: &Kept, count: u32) -> Result<u32, Unreadable> {
    if count <= proxy::SHORT as u32 && count & 2 == 0 {
        let words = (0..).zip(&line.bytes[..proxy::SHORT / 4]);
        // Fewer instructions than a call of the kernel has, and no branches: all ones if it counts, or none.
        let sum = words.fold(0, |sum, (at, word)| {
            let counts = ((at * 4 - count as i32) >> 31) as u32;
            sum + u64::from(word & counts)
        });
        return Ok(add(sum as u32, (sum >> 32) as u32));
    }
    let count = bounded::<1, { header::MAX_LEN as u64 }>(count.into()).ok_or(Unreadable)?;
    let words = (&raw const line.bytes).cast_mut();
    // SAFETY: as in `sum`, and the buffer has as many bytes.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, words.cast(), count as u32 & !3, 0) };
    let sum = u32::try_from(sum).map_err(|_| Unreadable)?;
    if count & 2 == 0 {
        return Ok(sum);
    }
    let [a, b, ..] = line.bytes[count as usize / 4 % line.bytes.len()].to_ne_bytes();
    Ok(add(sum, u16::from_ne_bytes([a, b]).into()))
}

/// `longer`: by so many bytes the payload has grown, modulo 2^16; `scratch.removed` is what that does to its
/// checksum.
#[inline(always)]
fn write_headers(
    ctx: &TcContext,
    version: Version,
    scratch: &Scratch,
    longer: u16,
) -> Result<(), Unreadable> {
    let (skb, is_v4) = (ctx.skb.skb, version == Version::V4);
    let is_written = match scratch.is_of_other {
        true => family::write_in_scratch(skb, is_v4, longer),
        false => write_in_scratch(skb, is_v4, longer),
    };
    if is_written { Ok(()) } else { Err(Unreadable) }
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "write_datagram")]
#[inline(never)]
extern "C" fn write_in_scratch(skb: *mut __sk_buff, is_v4: bool, longer: u16) -> bool {
    let ctx = &TcContext::new(skb);
    maps::scratch()
        .is_some_and(|scratch| write_same(ctx, Version::if_v4(is_v4), scratch, longer).is_ok())
}

#[inline(always)]
fn write_same(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    longer: u16,
) -> Result<(), Unreadable> {
    let summed = skb::summed(ctx);
    let change = match version {
        Version::V4 => write_v4(ctx, scratch, longer, summed)?,
        Version::V6 => write_v6(ctx, scratch, longer, summed)?,
    };
    if change.checked(ctx, summed).is_some() {
        return Ok(());
    }
    let check = plain_offset(version) + CHECK;
    if longer == 0 {
        replace_pseudo_sum(ctx, version, check, change.addresses, UNSET)?;
        return replace_sum(ctx, check, change.ports, UNSET);
    }
    change.fix(ctx, version, check)
}

/// All of IPv4's header and UDP's.
#[inline(always)]
fn write_v4(
    ctx: &TcContext,
    scratch: &mut Scratch,
    longer: u16,
    summed: Summed,
) -> Result<Change, Unreadable> {
    let [start, fragment, life, source, destination, ports, last]: [u32; 7] =
        ctx::peek(ctx, Link::ETHERNET, 0)?;
    let [to_source, to_destination, .., to_ports] = words(&scratch.rewrite.to, Version::V4);
    let [len, check] = halves(last);
    let check = if has_no_sum(scratch, summed) {
        0
    } else {
        check
    };
    let change = Change {
        check,
        length: change(&[u32::from(len)], &[lengthen(len, longer).into()]),
        addresses: change(&[source, destination], &[to_source, to_destination]),
        ports: change(&[ports], &[to_ports]),
        payload: scratch.removed,
    };
    let check = change.checked(ctx, summed).unwrap_or(check);
    let [first, total] = halves(start);
    let [life, sum] = halves(life);
    let sum = !fold(add(add(change.length, change.addresses), (!sum).into()));
    scratch.answer[0] = word(first, lengthen(total, longer));
    scratch.answer[1] = fragment;
    scratch.answer[2] = word(life, sum);
    scratch.answer[3] = to_source;
    scratch.answer[4] = to_destination;
    scratch.answer[5] = to_ports;
    scratch.answer[6] = word(lengthen(len, longer), check);
    close_up(ctx, scratch, longer)?;
    store::<7>(ctx, scratch, 0)?;
    Ok(change)
}

/// What IPv6 has from the payload's length on, and UDP's header.
#[inline(always)]
fn write_v6(
    ctx: &TcContext,
    scratch: &mut Scratch,
    longer: u16,
    summed: Summed,
) -> Result<Change, Unreadable> {
    const AT: usize = offset_of!(Ipv6Hdr, payload_len);
    let [start, ends @ .., ports, last]: [u32; 11] = ctx::peek(ctx, Link::ETHERNET, AT)?;
    let [to @ .., to_ports] = words(&scratch.rewrite.to, Version::V6);
    let [len, check] = halves(last);
    let change = Change {
        check,
        length: change(&[u32::from(len)], &[lengthen(len, longer).into()]),
        addresses: change(&ends, &to),
        ports: change(&[ports], &[to_ports]),
        payload: scratch.removed,
    };
    let check = change.checked(ctx, summed).unwrap_or(check);
    let [payload, next] = halves(start);
    scratch.answer[0] = word(lengthen(payload, longer), next);
    scratch.answer[1..9].copy_from_slice(&to);
    scratch.answer[9] = to_ports;
    scratch.answer[10] = word(lengthen(len, longer), check);
    close_up(ctx, scratch, longer)?;
    store::<11>(ctx, scratch, AT)?;
    Ok(change)
}

/// Has the headers move, if they are to. What they are is known by then.
#[inline(always)]
fn close_up(ctx: &TcContext, scratch: &Scratch, longer: u16) -> Result<(), Unreadable> {
    match scratch.is_closed_up {
        true => ctx::close_up(ctx, longer.wrapping_neg().into()),
        false => Ok(()),
    }
}

/// The first words of `scratch.answer`.
#[inline(always)]
fn store<const N: usize>(ctx: &TcContext, scratch: &Scratch, at: usize) -> Result<(), Unreadable> {
    let words = (&raw const scratch.answer).cast::<[u32; N]>();
    // SAFETY: the buffer has more.
    ctx::store(ctx, at, unsafe { &*words })
}

/// As packets have them: two addresses, or zeroes behind them, and two ports.
#[inline(always)]
pub const fn words(tuple: &Tuple, version: Version) -> [u32; 9] {
    let [source, destination] = tuple.addresses();
    let [a, b, c, d] = source.words();
    let [e, f, g, h] = destination.words();
    let [sport, dport] = tuple.ports();
    let ports = word(sport, dport);
    match version {
        Version::V4 => [d, h, 0, 0, 0, 0, 0, 0, ports],
        Version::V6 => [a, b, c, d, e, f, g, h, ports],
    }
}

/// Of its halves, as they lie in memory.
#[inline(always)]
pub const fn word(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// As in the packet.
#[inline(always)]
pub const fn lengthen(len: u16, longer: u16) -> u16 {
    u16::from_be(len).wrapping_add(longer).to_be()
}
