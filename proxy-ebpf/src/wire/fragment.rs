//! IP packets that are pieces of one.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};
use proxy_common::{
    Addr,
    flow::{Piece, Tuple},
};

use crate::ctx::{self, Unreadable, Version};

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
        let ports: [u16; 2] = ctx::load(ctx, self.at as usize)?;
        let [source, destination] = self.piece.addresses;
        Ok(Tuple::from_wire(source, destination, ports))
    }
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
    if next != FRAGMENT {
        return None;
    }
    let [place, id]: [u32; 2] = ctx::load(ctx, Ipv6Hdr::LEN).ok()?;
    let [protocol, _, high, low] = place.to_ne_bytes();
    if protocol != of as u8 {
        return None;
    }
    let addresses = ctx::load(ctx, offset_of!(Ipv6Hdr, src_addr)).ok()?;
    Some(Fragment {
        piece: Piece { addresses, id },
        is_first: u16::from_be_bytes([high, low]) & OFFSET == 0,
        at: Ipv6Hdr::LEN as u32 + HEADER_LEN,
    })
}
