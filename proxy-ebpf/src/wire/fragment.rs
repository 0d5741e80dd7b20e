//! IP packets that are pieces of one.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use network_types::{
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};
use proxy_common::{
    Addr,
    checksum::add,
    flow::{Piece, Tuple},
};

use super::{
    UNSET, difference, replace_ip_sum, replace_sum,
    segment::{DESTINATION, behind_options},
    store_addresses,
};
use crate::{
    ctx::{self, Unreadable, Version},
    maps::Scratch,
};

/// A piece of a segment or datagram.
pub struct Fragment {
    pub piece: Piece,
    pub is_first: bool,
    /// Where what it carries is.
    pub at: u32,
}

impl Fragment {
    /// Of a first piece.
    #[inline(always)]
    pub fn tuple(&self, ctx: &TcContext) -> Result<Tuple, Unreadable> {
        ctx::gather_headers(ctx);
        let ports: [u16; 2] = ctx::load(ctx, self.at as usize)?;
        let [source, destination] = self.piece.addresses;
        Ok(Tuple::from_wire(source, destination, ports))
    }
}

/// Of a datagram's first piece.
#[inline(always)]
pub fn datagram(ctx: &TcContext, version: Version) -> Option<Tuple> {
    let first = read(ctx, version, IpProto::Udp).filter(|piece| piece.is_first)?;
    first.tuple(ctx).ok()
}

/// Gives a piece of a datagram, which has an Ethernet header, the addresses of `scratch.rewrite.to`. In a first one,
/// ports and a checksum are at `scratch.segment.at`.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn rename(ctx: &TcContext, version: Version, scratch: &Scratch) -> Result<(), Unreadable> {
    let (from, to) = (&scratch.segment.tuple, &scratch.rewrite.to);
    let addresses = difference(from.both_addresses(), to.both_addresses())?;
    store_addresses(ctx, version, 0, to.both_addresses())?;
    replace_ip_sum(ctx, version, 0, addresses)?;
    let at = scratch.segment.at as usize;
    if at == 0 {
        return Ok(());
    }
    let change = add(addresses, difference(&from.ports(), &to.ports())?);
    ctx::store(ctx, at, &to.ports())?;
    let check = at + offset_of!(UdpHdr, check);
    if ctx::load::<u16>(ctx, check)? == 0 {
        return Ok(());
    }
    replace_sum(ctx, check, change, UNSET)
}

/// None unless it is a piece of something of this protocol.
#[inline(always)]
pub fn read(ctx: &TcContext, version: Version, of: IpProto) -> Option<Fragment> {
    match version {
        Version::V4 => read_v4(ctx, of),
        Version::V6 => read_v6(ctx, of),
    }
}

#[inline(always)]
fn read_v4(ctx: &TcContext, of: IpProto) -> Option<Fragment> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let ip: Ipv4Hdr = ctx::load(ctx, 0).ok()?;
    let place = u16::from_be_bytes(ip.frags) & (MORE | OFFSET);
    if ip.proto != of as u8 || place == 0 {
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
fn read_v6(ctx: &TcContext, of: IpProto) -> Option<Fragment> {
    const FRAGMENT: u8 = 44;
    const HEADER_LEN: u32 = 8;
    const OFFSET: u16 = 0xfff8;
    let next: u8 = ctx::load(ctx, offset_of!(Ipv6Hdr, next_hdr)).ok()?;
    let (next, at) = behind_options(ctx, next, Ipv6Hdr::LEN as u32)?;
    let (next, at) = behind_options(ctx, next, at)?;
    if next != FRAGMENT {
        return None;
    }
    let [place, id]: [u32; 2] = ctx::load(ctx, at as usize).ok()?;
    let [next, _, high, low] = place.to_ne_bytes();
    let is_first = u16::from_be_bytes([high, low]) & OFFSET == 0;
    let at = at + HEADER_LEN;
    // Options of a first piece's; what is behind them in the whole, a later one doesn't tell.
    let (protocol, at) = match is_first {
        true => behind_options(ctx, next, at)?,
        false if next == DESTINATION => (of as u8, at),
        false => (next, at),
    };
    if protocol != of as u8 {
        return None;
    }
    let addresses = ctx::load(ctx, offset_of!(Ipv6Hdr, src_addr)).ok()?;
    Some(Fragment {
        piece: Piece { addresses, id },
        is_first,
        at,
    })
}
