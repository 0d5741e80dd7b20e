//! The PROXY protocol header at the beginning of a payload.

use aya_ebpf::programs::TcContext;
use network_types::udp::UdpHdr;
use proxy_common::{
    Addr, Endpoint, Listener,
    datagram::spp,
    header::{
        MAX_LEN, crc32c, v1,
        v2::{self, Transport},
    },
};

use super::{
    plain_offset,
    segment::{Segment, is_plain},
};
use crate::{
    bounds::bounded,
    ctx::{self, Link, Unreadable, Version},
    maps::Scratch,
    repeat::{MORE, STOP, repeat},
};

/// A header of v2 with IPv6 addresses, and nothing behind them.
pub const SHORT: usize = v2::FIXED_LEN + 36;

/// A header that names a client.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub source: Endpoint,
    pub len: u32,
    pub version: u32,
    /// Whether there are TLVs.
    pub tlvs: u32,
    /// So many zeroes are in front of it in `scratch.line`.
    pub front: u32,
}

pub enum Reason {
    /// There may be more of it to come.
    Split,
    /// The daemon's to judge.
    Other,
}

/// Reads the header of `scratch.segment` into `scratch.proxy`.
#[inline(always)]
pub fn read(
    ctx: &TcContext,
    link: Link,
    scratch: &mut Scratch,
    listener: &Listener,
) -> Result<(), Reason> {
    load(ctx, link, scratch).ok_or(Reason::Other)?;
    let start = v1::START as u32;
    if scratch.segment.payload < start {
        return Err(Reason::Split);
    }
    let first = byte(scratch, 0);
    if first == v1::PREFIX[0] && listener.has(Listener::HEADER_V1) {
        read_v1(scratch)
    } else if first == v2::SIGNATURE[0] && listener.has(Listener::HEADER_V2) {
        read_v2(scratch, Transport::Stream)
    } else {
        Err(Reason::Other)
    }
}

/// The same of a datagram, which has to have all of it. `scratch.proxy` tells whose it is also where no more than that
/// can be read, and else has a length of 0.
#[inline(always)]
pub fn read_v2_datagram(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    scratch.proxy.len = 0;
    if !is_peeked(ctx, version, link, scratch) {
        load(ctx, link, scratch).ok_or(Reason::Other)?;
    }
    read_v2(scratch, Transport::Datagram)
}

/// Whether `scratch.line` has all of the header, as most are short and lie in the packet's first piece.
#[inline(always)]
fn is_peeked(ctx: &TcContext, version: Version, link: Link, scratch: &mut Scratch) -> bool {
    let peeked = peek::<[u32; SHORT / 4]>(ctx, version, link, &scratch.segment);
    let Some(short) = peeked else {
        return false;
    };
    scratch.line.bytes[..SHORT / 4].copy_from_slice(&short);
    let [_, _, high, low] = short[v2::FIXED_LEN / 4 - 1].to_ne_bytes();
    v2::FIXED_LEN + usize::from(u16::from_be_bytes([high, low])) <= SHORT
}

/// The beginning of a datagram's payload, if it lies in the packet's first piece.
#[inline(always)]
fn peek<T: Copy>(ctx: &TcContext, version: Version, link: Link, segment: &Segment) -> Option<T> {
    if !is_plain(segment, version) {
        return None;
    }
    ctx::peek_only(ctx, link, plain_offset(version) + UdpHdr::LEN)
}

/// The same of Cloudflare's Simple Proxy Protocol.
#[inline(never)]
pub fn read_spp(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    /// Words lie at multiples of four behind the magic, once it is there.
    const AT: usize = 2;
    scratch.proxy.len = 0;
    if scratch.segment.payload < spp::LEN as u32 {
        return Err(Reason::Split);
    }
    scratch.line.bytes[0] = 0;
    let line: *mut u8 = (&raw mut scratch.line.bytes).cast();
    // SAFETY: within the buffer.
    let to = unsafe { line.add(AT) };
    match peek::<[u16; spp::LEN / 2]>(ctx, version, link, &scratch.segment) {
        // SAFETY: at a multiple of two, where there is room for it.
        Some(short) => unsafe { to.cast::<[u16; spp::LEN / 2]>().write(short) },
        None => {
            let Segment { at, len, .. } = scratch.segment;
            ctx::load_payload(ctx, link, (at + len) as usize, to, spp::LEN as u64)
                .map_err(|Unreadable| Reason::Other)?;
        }
    }
    if [byte(scratch, 2), byte(scratch, 3)] != spp::MAGIC {
        return Err(Reason::Other);
    }
    let [a, b, c, d, e, f, g, h, ports] = word(scratch, AT + spp::MAGIC.len());
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let end = |addr, port| Endpoint::new(Addr::from_v6(addr), u16::from_be_bytes(port));
    scratch.stated = end([e, f, g, h], [d0, d1]);
    scratch.proxy = Header {
        source: end([a, b, c, d], [s0, s1]),
        len: spp::LEN as u32,
        version: 0,
        tlvs: 0,
        front: AT as u32,
    };
    Ok(())
}

/// As much of the payload as a header may have, zeroes behind it.
#[inline(always)]
fn load(ctx: &TcContext, link: Link, scratch: &mut Scratch) -> Option<()> {
    let Segment {
        at, len, payload, ..
    } = scratch.segment;
    scratch.line.bytes = [0; MAX_LEN / 4];
    scratch.behind = [0; 4];
    let line: *mut u8 = (&raw mut scratch.line.bytes).cast();
    let count = payload.min(MAX_LEN as u32);
    let count = bounded::<1, { MAX_LEN as u64 }>(count.into())?;
    ctx::load_payload(ctx, link, (at + len) as usize, line, count).ok()
}

#[inline(always)]
fn byte(scratch: &Scratch, at: u32) -> u8 {
    let line: *const u8 = (&raw const scratch.line.bytes).cast();
    // SAFETY: below the length of the buffer, which is a power of two.
    unsafe { *line.add(at as usize & (MAX_LEN - 1)) }
}

#[inline(always)]
fn word<const N: usize>(scratch: &Scratch, at: usize) -> [u32; N] {
    let line: *const u8 = (&raw const scratch.line.bytes).cast();
    // SAFETY: constants of the format, within the buffer; words lie at multiples of four.
    unsafe { *line.add(at).cast::<[u32; N]>() }
}

#[inline(never)]
fn read_v2(scratch: &mut Scratch, transport: Transport) -> Result<(), Reason> {
    let payload = scratch.segment.payload;
    if payload < v2::FIXED_LEN as u32 {
        return Err(Reason::Split);
    }
    let line: *const u8 = (&raw const scratch.line.bytes).cast();
    // SAFETY: the beginning of the buffer.
    let fixed = unsafe { &*line.cast::<[u8; v2::FIXED_LEN]>() };
    let Some(fixed) = v2::fixed(fixed, transport) else {
        return Err(Reason::Other);
    };
    if payload < fixed.tlvs as u32 {
        return Err(Reason::Split);
    }
    scratch.proxy = Header {
        source: if fixed.v6 {
            v2::source6(word(scratch, v2::FIXED_LEN))
        } else {
            v2::source4(word(scratch, v2::FIXED_LEN))
        },
        len: fixed.len as u32,
        version: 2,
        tlvs: (fixed.len > fixed.tlvs).into(),
        front: 0,
    };
    if fixed.len > MAX_LEN {
        return Err(Reason::Other);
    }
    if payload < fixed.len as u32 {
        return Err(Reason::Split);
    }
    if fixed.len > fixed.tlvs && !are_tlvs_right(scratch, fixed.tlvs as u32, fixed.len as u32) {
        return Err(Reason::Other);
    }
    Ok(())
}

/// So many TLVs, and no more, are gone through here.
const TLVS: u32 = 24;

/// How far reading TLVs has got. In a map, as the verifier knows nothing of what comes from there: so
/// one is as good as the next.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tlvs {
    at: u32,
    /// Of the header.
    len: u32,
    /// 0: there is none.
    checksum_at: u32,
    /// The end of the SSL TLV that was read last, whose own TLVs end there too. 0: there was none.
    ssl_end: u32,
    are_odd: u32,
}

/// Whether the TLVs fill the header to its end, and its checksum, if there is one, is right.
#[inline(always)]
fn are_tlvs_right(scratch: &mut Scratch, start: u32, len: u32) -> bool {
    scratch.tlvs = Tlvs {
        at: start,
        len,
        checksum_at: 0,
        ssl_end: 0,
        are_odd: 0,
    };
    let mut walk: *mut Scratch = scratch;
    repeat(TLVS, tlv, &mut walk);
    let Tlvs {
        at,
        checksum_at,
        are_odd,
        ..
    } = scratch.tlvs;
    if are_odd != 0 || at != len {
        return false;
    }
    checksum_at == 0 || is_checksum_right(scratch, checksum_at, len)
}

/// The next TLV, or the next of those in an SSL TLV.
unsafe extern "C" fn tlv(_: u64, scratch: *mut *mut Scratch) -> i64 {
    // SAFETY: what `are_tlvs_right` gave.
    let scratch = unsafe { &mut **scratch };
    let Tlvs { at, len, .. } = scratch.tlvs;
    if at >= len {
        return STOP;
    }
    let kind = byte(scratch, at);
    let size = u16::from_be_bytes([byte(scratch, at + 1), byte(scratch, at + 2)]);
    let Some(next) = step(&mut scratch.tlvs, kind, size) else {
        scratch.tlvs.are_odd = 1;
        return STOP;
    };
    scratch.tlvs.at = next;
    MORE
}

/// Where the one behind this begins. `None`: it is the daemon's to judge, as is a second checksum.
#[inline(always)]
fn step(tlvs: &mut Tlvs, kind: u8, size: u16) -> Option<u32> {
    let value = tlvs.at + v2::TLV_HEAD_LEN as u32;
    let end = value + u32::from(size);
    if tlvs.at < tlvs.ssl_end {
        return (end <= tlvs.ssl_end).then_some(end);
    }
    match kind {
        v2::TLV_CRC32C => {
            let is_odd = size != v2::CRC32C_LEN || tlvs.checksum_at != 0;
            tlvs.checksum_at = value;
            (!is_odd).then_some(end)
        }
        v2::TLV_UNIQUE_ID => (size <= v2::UNIQUE_ID_MAX).then_some(end),
        v2::TLV_SSL => {
            let is_odd = size < v2::SSL_FIXED_LEN || end > tlvs.len;
            tlvs.ssl_end = end;
            (!is_odd).then_some(value + u32::from(v2::SSL_FIXED_LEN))
        }
        _ => Some(end),
    }
}

struct Checksum<'a> {
    scratch: &'a Scratch,
    at: u32,
    len: u32,
    crc: u32,
}

/// CRC-32C of the header with zeroes in the checksum's place.
#[inline(always)]
fn is_checksum_right(scratch: &Scratch, at: u32, len: u32) -> bool {
    let said = u32::from_be_bytes([0, 1, 2, 3].map(|more| byte(scratch, at + more)));
    let mut checksum = Checksum {
        scratch,
        at,
        len,
        crc: crc32c::START,
    };
    repeat(MAX_LEN as u32, checksum_byte, &mut checksum);
    !checksum.crc == said
}

unsafe extern "C" fn checksum_byte(index: u64, checksum: *mut Checksum<'_>) -> i64 {
    // SAFETY: what `is_checksum_right` gave.
    let checksum = unsafe { &mut *checksum };
    let index = index as u32;
    if index >= checksum.len {
        return STOP;
    }
    let is_its_own = index.wrapping_sub(checksum.at) < v2::CRC32C_LEN.into();
    let byte = if is_its_own {
        0
    } else {
        byte(checksum.scratch, index)
    };
    let entry = usize::from(crc32c::index(checksum.crc, byte));
    checksum.crc = crc32c::step(checksum.crc, crc32c::TABLE[entry]);
    MORE
}

#[inline(never)]
fn read_v1(scratch: &mut Scratch) -> Result<(), Reason> {
    for (at, expected) in (0..).zip(v1::PREFIX) {
        if byte(scratch, at) != expected {
            return Err(Reason::Other);
        }
    }
    let Some(line) = v1::Line::new(byte(scratch, v1::PREFIX.len() as u32)) else {
        return Err(Reason::Other);
    };
    if byte(scratch, v1::START as u32 - 1) != b' ' {
        return Err(Reason::Other);
    }
    scratch.v1 = line;
    let mut reading = Reading {
        scratch,
        outcome: Err(Reason::Other),
    };
    let times = v1::MAX_LEN - 1 - v1::START;
    repeat(times as u32, v1_byte, &mut reading);
    reading.outcome
}

struct Reading<'a> {
    scratch: &'a mut Scratch,
    outcome: Result<(), Reason>,
}

unsafe extern "C" fn v1_byte(index: u64, reading: *mut Reading<'_>) -> i64 {
    // SAFETY: what `read_v1` gave.
    let Reading { scratch, outcome } = unsafe { &mut *reading };
    let at = index as u32 + v1::START as u32;
    if at + 1 >= scratch.segment.payload {
        *outcome = Err(Reason::Split);
        return STOP;
    }
    let read = byte(scratch, at);
    match scratch.v1.step(read) {
        v1::Step::More => return MORE,
        v1::Step::Whole if byte(scratch, at + 1) == b'\n' => {
            scratch.proxy = Header {
                source: scratch.v1.source(),
                len: at + 2,
                version: 1,
                tlvs: 0,
                front: 0,
            };
            *outcome = Ok(());
        }
        v1::Step::Whole | v1::Step::Other => *outcome = Err(Reason::Other),
    }
    STOP
}
