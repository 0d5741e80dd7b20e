//! The only place that reads or writes packet bytes. Reads return copies.
//!
//! Offsets count from the network header, which every device has; an Ethernet header is missing
//! on WireGuard, tun and PPP.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::{bpf_skb_change_head, bpf_skb_load_bytes_relative},
    programs::TcContext,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};
use proxy_common::{Addr, Endpoint};

/// The kernel refused a read or write: the packet ends too early, or memory is short.
pub struct Unreadable;

/// The IP version by the packet's EtherType.
#[derive(Clone, Copy)]
pub enum Version {
    V4,
    V6,
}

/// What a TCP segment says of its connection.
pub struct Segment {
    pub source: Endpoint,
    pub destination: Endpoint,
    /// The first one of its connection: SYN without ACK.
    pub first: bool,
}

#[inline(always)]
pub fn version(ctx: &TcContext) -> Option<Version> {
    const IPV4: u32 = EtherType::Ipv4 as u32;
    const IPV6: u32 = EtherType::Ipv6 as u32;
    // SAFETY: the kernel hands every program a valid context.
    match unsafe { (*ctx.skb.skb).protocol } {
        IPV4 => Some(Version::V4),
        IPV6 => Some(Version::V6),
        _ => None,
    }
}

#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: as in `version`.
    unsafe { (*ctx.skb.skb).mark }
}

#[inline(always)]
pub fn source(ctx: &TcContext, version: Version) -> Result<Addr, Unreadable> {
    match version {
        Version::V4 => load(ctx, offset_of!(Ipv4Hdr, src_addr)).map(Addr::from_v4),
        Version::V6 => load(ctx, offset_of!(Ipv6Hdr, src_addr)).map(Addr::from_v6),
    }
}

#[inline(always)]
pub fn destination(ctx: &TcContext, version: Version) -> Result<Addr, Unreadable> {
    match version {
        Version::V4 => load(ctx, offset_of!(Ipv4Hdr, dst_addr)).map(Addr::from_v4),
        Version::V6 => load(ctx, offset_of!(Ipv6Hdr, dst_addr)).map(Addr::from_v6),
    }
}

/// The packet as a TCP segment, if it is one. Linux sends TCP without IPv6 extension headers, so it
/// is looked for right behind the fixed header.
#[inline(always)]
pub fn segment(ctx: &TcContext, version: Version) -> Result<Option<Segment>, Unreadable> {
    let (protocol, header): (u8, usize) = match version {
        Version::V4 => {
            let vihl: u8 = load(ctx, offset_of!(Ipv4Hdr, vihl))?;
            let header = usize::from(vihl & 0xf) * 4;
            (load(ctx, offset_of!(Ipv4Hdr, proto))?, header)
        }
        Version::V6 => (load(ctx, offset_of!(Ipv6Hdr, next_hdr))?, Ipv6Hdr::LEN),
    };
    if protocol != IpProto::Tcp as u8 {
        return Ok(None);
    }
    let tcp: TcpHdr = load(ctx, header)?;
    let (source, destination) = (source(ctx, version)?, destination(ctx, version)?);
    Ok(Some(Segment {
        source: Endpoint::new(source, u16::from_be_bytes(tcp.source)),
        destination: Endpoint::new(destination, u16::from_be_bytes(tcp.dest)),
        first: tcp.syn() != 0 && tcp.ack() == 0,
    }))
}

/// Overwrites both MAC addresses of a packet that has an Ethernet header.
#[inline(always)]
pub fn set_macs(ctx: &TcContext, mac: [u8; 6]) -> Result<(), Unreadable> {
    ctx.store(0, &[mac, mac], 0).map_err(|_| Unreadable)
}

/// Puts an Ethernet header in front of a packet that has none.
#[inline(always)]
pub fn add_ethernet(ctx: &TcContext, mac: [u8; 6], version: Version) -> Result<(), Unreadable> {
    // SAFETY: a plain helper call on the program's own context.
    let grown = unsafe { bpf_skb_change_head(ctx.skb.skb, EthHdr::LEN as u32, 0) };
    if grown != 0 {
        return Err(Unreadable);
    }
    let ether_type = match version {
        Version::V4 => EtherType::Ipv4,
        Version::V6 => EtherType::Ipv6,
    };
    set_macs(ctx, mac)?;
    ctx.store(2 * mac.len(), &(ether_type as u16), 0)
        .map_err(|_| Unreadable)
}

/// `T` is plain bytes: any content is a valid value.
#[inline(always)]
fn load<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Unreadable> {
    let mut value = MaybeUninit::<T>::uninit();
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the helper writes exactly the bytes of `value`, or fails.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            skb.cast(),
            offset as u32,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        )
    };
    if failed != 0 {
        return Err(Unreadable);
    }
    // SAFETY: the helper filled it.
    Ok(unsafe { value.assume_init() })
}
