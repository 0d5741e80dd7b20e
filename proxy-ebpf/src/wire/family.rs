//! A datagram's packet made one of the other version of IP.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use network_types::ip::IpProto;
use proxy_common::checksum::{change, ipv4};

use super::{
    change::Change,
    datagram::{lengthen, word, words},
    halves, plain_offset, replace_sum,
    skb::{self, Summed},
};
use crate::{
    ctx::{self, Link, Unreadable, Version},
    maps::{self, Scratch},
};

/// What both versions have.
struct Fields {
    class: u32,
    life: u8,
    /// The addresses, or zeroes behind them.
    ends: [u32; 8],
    ports: u32,
    len: u16,
    check: u16,
}

/// What a new header of IP says besides the addresses, and that nothing is between it and what it carries.
pub struct Head {
    pub class: u32,
    pub life: u8,
    pub protocol: IpProto,
    /// Of so many bytes.
    pub behind: u32,
}

impl Head {
    /// `fragment`: the flags of a packet that is no piece. It has no identification.
    #[inline(always)]
    pub fn v4(&self, fragment: u32, ends: [u32; 2]) -> [u32; 5] {
        let total = plain_offset(Version::V4) as u32 + self.behind;
        let start = (0x45 << 24 | self.class << 16 | total).to_be();
        let life = |sum| word(u16::from_ne_bytes([self.life, self.protocol as u8]), sum);
        let mut header = [start, fragment.to_be(), life(0), ends[0], ends[1]];
        header[2] = life(ipv4(&header));
        header
    }

    /// In front of the addresses.
    #[inline(always)]
    pub const fn v6(&self) -> [u32; 2] {
        let [a, b] = (self.behind as u16).to_be_bytes();
        let second = u32::from_ne_bytes([a, b, self.protocol as u8, self.life]);
        [(6 << 28 | self.class << 20).to_be(), second]
    }
}

/// Whether a datagram has a checksum, without which IPv6 has none. There is nothing between the fixed header of IP
/// and UDP's.
#[inline(always)]
pub fn has_sum(ctx: &TcContext, version: Version, link: Link) -> bool {
    let last = ctx::peek::<[u16; 4]>(ctx, link, plain_offset(version));
    last.is_ok_and(|[.., check]| check != 0)
}

/// In the place of IP's header and UDP's those for the tuple `scratch.rewrite.to`, which is of the other version.
/// Afterwards `scratch.segment.at` is where UDP's is then. `longer`: as in [`datagram`](super::datagram).
///
/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "write_other_family")]
#[inline(never)]
pub extern "C" fn write_in_scratch(skb: *mut __sk_buff, is_v4: bool, longer: u16) -> bool {
    let ctx = &TcContext::new(skb);
    maps::scratch()
        .is_some_and(|scratch| write_headers(ctx, Version::if_v4(is_v4), scratch, longer).is_ok())
}

#[inline(always)]
fn write_headers(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    longer: u16,
) -> Result<(), Unreadable> {
    let fields = match version {
        Version::V4 => read_v4(ctx)?,
        Version::V6 => read_v6(ctx)?,
    };
    let to = version.other();
    let [ends @ .., ports] = words(&scratch.rewrite.to, to);
    let length = lengthen(fields.len, longer);
    let change = Change {
        check: fields.check,
        length: change(&[u32::from(fields.len)], &[length.into()]),
        addresses: change(&fields.ends, &ends),
        ports: change(&[fields.ports], &[ports]),
        payload: scratch.removed,
    };
    let summed = match skb::summed(ctx) {
        Summed::Other if is_partial(ctx, version)? => Summed::Partial,
        Summed::Other => Summed::Whole,
        summed => summed,
    };
    let check = change.checked(ctx, summed).ok_or(Unreadable)?;
    let last = word(length, check);
    ctx::change_version(ctx, to)?;
    scratch.segment.at = plain_offset(to) as u32;
    match to {
        Version::V4 => write_v4(ctx, scratch, &fields, [ends[0], ends[1], ports, last]),
        Version::V6 => write_v6(ctx, scratch, &fields, &ends, [ports, last]),
    }
}

#[inline(always)]
fn read_v4(ctx: &TcContext) -> Result<Fields, Unreadable> {
    let [start, _, life, source, destination, ports, last]: [u32; 7] =
        ctx::peek(ctx, Link::ETHERNET, 0)?;
    let [len, check] = halves(last);
    let [life, ..] = life.to_ne_bytes();
    Ok(Fields {
        class: u32::from_be(start) >> 16 & 0xff,
        life,
        ends: [source, destination, 0, 0, 0, 0, 0, 0],
        ports,
        len,
        check,
    })
}

#[inline(always)]
fn read_v6(ctx: &TcContext) -> Result<Fields, Unreadable> {
    let [start, second, ends @ .., ports, last]: [u32; 12] = ctx::peek(ctx, Link::ETHERNET, 0)?;
    let [len, check] = halves(last);
    let [.., life] = second.to_ne_bytes();
    Ok(Fields {
        class: u32::from_be(start) >> 20 & 0xff,
        life,
        ends,
        ports,
        len,
        check,
    })
}

#[inline(always)]
fn write_v4(
    ctx: &TcContext,
    scratch: &mut Scratch,
    fields: &Fields,
    [source, destination, ports, last]: [u32; 4],
) -> Result<(), Unreadable> {
    /// Not to be taken to pieces: it fits where it goes.
    const WHOLE: u32 = 0x4000;
    let [len, _] = halves(last);
    let head = Head {
        class: fields.class,
        life: fields.life,
        protocol: IpProto::Udp,
        behind: u16::from_be(len).into(),
    };
    let [a, b, c, d, e] = head.v4(WHOLE, [source, destination]);
    let answer = [a, b, c, d, e, ports, last];
    store(ctx, scratch, &answer)
}

#[inline(always)]
fn write_v6(
    ctx: &TcContext,
    scratch: &mut Scratch,
    fields: &Fields,
    ends: &[u32; 8],
    [ports, last]: [u32; 2],
) -> Result<(), Unreadable> {
    let [len, _] = halves(last);
    let head = Head {
        class: fields.class,
        life: fields.life,
        protocol: IpProto::Udp,
        behind: u16::from_be(len).into(),
    };
    let [start, second] = head.v6();
    let [c, d, e, f, g, h, i, j] = *ends;
    let answer = [start, second, c, d, e, f, g, h, i, j, ports, last];
    store(ctx, scratch, &answer)
}

/// From the network header on. Where the kernel has a sum of the whole packet, it follows.
#[inline(always)]
fn store<const N: usize>(
    ctx: &TcContext,
    scratch: &mut Scratch,
    words: &[u32; N],
) -> Result<(), Unreadable> {
    let answer = (&raw mut scratch.answer).cast::<[u32; N]>();
    // SAFETY: the buffer has more.
    unsafe { answer.write(*words) };
    ctx::store_bytes(ctx, 0, answer.cast(), size_of::<[u32; N]>() as u64)
}

/// Whether the checksum is yet to be made: then the kernel's helper leaves it alone.
#[inline(always)]
fn is_partial(ctx: &TcContext, version: Version) -> Result<bool, Unreadable> {
    let at = plain_offset(version) + super::datagram::CHECK;
    let before: u16 = ctx::peek(ctx, Link::ETHERNET, at)?;
    replace_sum(ctx, at, 1, 0)?;
    let is_partial = ctx::peek::<u16>(ctx, Link::ETHERNET, at)? == before;
    ctx::store(ctx, at, &before)?;
    Ok(is_partial)
}
