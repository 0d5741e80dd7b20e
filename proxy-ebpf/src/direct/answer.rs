//! A SYN turned into its answer, on the spot.

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use network_types::{
    ip::{IpProto, Ipv4Hdr},
    tcp::TcpHdr,
};
use proxy_common::{
    Counter, checksum,
    cookie::{Agreed, Numbers},
    flow::Tuple,
};

use crate::{
    ctx::{self, Unreadable, Version},
    lookup::route::Way,
    maps::{self, Scratch},
    verdict::{Action, Verdict},
    wire::{difference, plain_offset, replace_sum},
};

/// To the neighbour that its question came from, if that is where the route leads.
#[inline(always)]
pub fn out(ctx: &TcContext, way: &Way, why: Counter) -> Result<Verdict, Verdict> {
    let is_back = maps::link_of(ctx).is_ethernet()
        && way.device == ctx::device(ctx)
        && way.mac != [0; 6]
        && ctx::turn_back(ctx, way.mac)?;
    Ok(if is_back {
        Verdict::to(Action::Out, way.device, why)
    } else {
        Verdict::to(Action::ByRoute, way.device, why)
    })
}

/// What Linux offers until it knows better.
const WINDOW: u16 = 64_240;
const SYN_ACK: u8 = 0x12;
const RST_ACK: u8 = 0x14;

/// Makes the packet the answer of a port where nobody listens. The packet's options are read; it is plain and
/// has no payload.
#[inline(always)]
pub fn reset(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> Result<(), Unreadable> {
    const WORDS: usize = TcpHdr::LEN / 4;
    begin(scratch, 0, WORDS, RST_ACK, 0);
    ctx::ensure_ethernet(ctx, maps::link_of(ctx), version)?;
    write::<WORDS>(ctx, version, scratch)
}

/// What a SYN is answered with.
pub struct SynAck {
    pub agreed: Agreed,
    pub numbers: Numbers,
    /// The largest packet that the balancer may send.
    pub mtu: u32,
    /// The window scale, where one is agreed on.
    pub scale: u8,
}

/// The same of one where somebody does.
#[inline(always)]
pub fn syn_ack(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    with: &SynAck,
) -> Result<(), Unreadable> {
    /// With all options that an answer can have.
    const WORDS: usize = 10;
    let SynAck {
        agreed,
        numbers,
        mtu,
        scale,
    } = *with;
    begin(scratch, numbers.sequence, WORDS, SYN_ACK, WINDOW);
    let headers = (plain_offset(version) + TcpHdr::LEN) as u32;
    let [high, low] = (mtu.saturating_sub(headers).min(u16::MAX.into()) as u16).to_be_bytes();
    let answer = &mut scratch.answer;
    // Fixed places: what isn't agreed on is padding.
    const NOP: [u8; 2] = [1, 1];
    let [a, b] = if agreed.sack { [4, 2] } else { NOP };
    let [c, d] = if agreed.timestamps { [8, 10] } else { NOP };
    answer[5] = u32::from_ne_bytes([2, 4, high, low]);
    answer[6] = u32::from_ne_bytes([a, b, c, d]);
    let padding = u32::from_ne_bytes([1; 4]);
    [answer[7], answer[8], answer[9]] = [padding; 3];
    if agreed.timestamps {
        answer[7] = numbers.timestamp.to_be();
        answer[8] = scratch.options.value.to_be();
    }
    if agreed.scale.is_some() {
        answer[9] = u32::from_ne_bytes([1, 3, 3, scale]);
    }
    ctx::ensure_ethernet(ctx, maps::link_of(ctx), version)?;
    write::<WORDS>(ctx, version, scratch)
}

/// The fixed part of the header.
#[inline(always)]
fn begin(scratch: &mut Scratch, sequence: u32, words: usize, flags: u8, window: u16) {
    let [sport, dport] = scratch.segment.tuple.ports();
    let [high, low] = window.to_be_bytes();
    scratch.answer = [0; 18];
    scratch.answer[0] = u32::from(sport) << 16 | u32::from(dport);
    scratch.answer[1] = sequence.to_be();
    scratch.answer[2] = scratch.segment.seq.wrapping_add(1).to_be();
    scratch.answer[3] = u32::from_ne_bytes([(words as u8) << 4, flags, high, low]);
    // The checksum stays for now, and with it the urgent pointer's place.
    scratch.answer[4] = scratch.header[4] & u32::from_ne_bytes([0xff, 0xff, 0, 0]);
}

/// The first words of `scratch.answer` in place of `scratch.header`.
#[inline(never)]
fn write<const WORDS: usize>(
    ctx: &TcContext,
    version: Version,
    scratch: &Scratch,
) -> Result<(), Unreadable> {
    let (at, len) = (plain_offset(version), WORDS as u32 * 4);
    ctx::set_len(ctx, at as u32 + len)?;
    // SAFETY: the first words of more.
    let header = unsafe { &*(&raw const scratch.answer).cast::<[u32; WORDS]>() };
    ctx::store(ctx, at, header)?;
    let sum = difference(&scratch.header, &scratch.answer)?;
    let check = at + offset_of!(TcpHdr, check);
    replace_sum(ctx, check, sum, 0)?;
    let lengths = difference(&scratch.segment.len.to_be(), &len.to_be())?;
    replace_sum(ctx, check, lengths, BPF_F_PSEUDO_HDR.into())?;
    write_ip(ctx, version, &scratch.segment.tuple, len)
}

/// Back to where it came from.
#[inline(always)]
fn write_ip(ctx: &TcContext, version: Version, tuple: &Tuple, len: u32) -> Result<(), Unreadable> {
    const TTL: u8 = 64;
    const DONT_FRAGMENT: u32 = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let [to, from] = tuple.addresses().map(|addr| addr.words());
    let protocol = IpProto::Tcp as u8;
    match version {
        Version::V4 => {
            let [high, low] = (len as u16 + Ipv4Hdr::LEN as u16).to_be_bytes();
            let mut header = [
                u32::from_ne_bytes([0x45, 0, high, low]),
                DONT_FRAGMENT,
                u32::from_ne_bytes([TTL, protocol, 0, 0]),
                from[3],
                to[3],
            ];
            let [high, low] = checksum::ipv4(&header).to_ne_bytes();
            header[2] = u32::from_ne_bytes([TTL, protocol, high, low]);
            ctx::store(ctx, 0, &header)?;
        }
        Version::V6 => {
            let [high, low] = (len as u16).to_be_bytes();
            let fixed = [
                u32::from_ne_bytes([0x60, 0, 0, 0]),
                u32::from_ne_bytes([high, low, protocol, TTL]),
            ];
            ctx::store(ctx, 0, &fixed)?;
            ctx::store(ctx, size_of_val(&fixed), &[from, to])?;
        }
    }
    Ok(())
}
