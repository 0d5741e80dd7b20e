//! The packet as the kernel hands it to a program: the only place that reads or writes its bytes.
//! Reads return copies.
//!
//! Offsets count from the network header, which every device has; an Ethernet header is missing on
//! WireGuard, tun and PPP. Writes want one: [`add_ethernet`] makes it.

mod letter;
mod resize;
mod socket;

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::{
        bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_store_bytes, bpf_skb_vlan_pop,
        bpf_skb_vlan_push,
    },
    programs::TcContext,
};
pub use letter::{load_all, store_all};
use network_types::eth::{EthHdr, EtherType};
use proxy_common::Addr;
pub use resize::{add_ethernet, change_version, close_up, ensure_ethernet, set_len};
pub use socket::{addresses, socket_addresses, socket_endpoint};

/// The kernel refused a read or write: the packet ends too early, or memory is short.
pub struct Unreadable;

/// The IP version by the packet's EtherType.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

impl Version {
    #[inline(always)]
    pub fn of(addr: &Addr) -> Self {
        match addr.v4() {
            Some(_) => Self::V4,
            None => Self::V6,
        }
    }

    #[inline(always)]
    pub const fn if_v4(is_v4: bool) -> Self {
        if is_v4 { Self::V4 } else { Self::V6 }
    }

    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// The wildcard address.
    #[inline(always)]
    pub const fn any(self) -> Addr {
        match self {
            Self::V4 => Addr::from_v4(0),
            Self::V6 => Addr::from_v6([0; 4]),
        }
    }

    #[inline(always)]
    const fn ether_type(self) -> EtherType {
        match self {
            Self::V4 => EtherType::Ipv4,
            Self::V6 => EtherType::Ipv6,
        }
    }
}

/// What a device's packets carry in front of the network header: an Ethernet header, or nothing. A
/// number, not a choice of two: the verifier would go through all that follows for each of them.
#[derive(Clone, Copy)]
pub struct Link(usize);

impl Link {
    pub const ETHERNET: Self = Self(EthHdr::LEN);

    /// Has `len` bytes: those of an Ethernet header, or none.
    #[inline(always)]
    pub const fn of(len: u32) -> Self {
        Self(len as usize & EthHdr::LEN)
    }

    /// By one bit of it: a comparison of the number itself would have the verifier know the number.
    #[inline(always)]
    pub const fn is_ethernet(self) -> bool {
        self.0 & 8 != 0
    }

    #[inline(always)]
    pub const fn len(self) -> usize {
        self.0
    }
}

#[inline(always)]
const fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the kernel hands every program a valid context, and translates each read of it.
    unsafe { &*ctx.skb.skb }
}

#[inline(always)]
pub fn version(ctx: &TcContext) -> Option<Version> {
    const IPV4: u32 = EtherType::Ipv4 as u32;
    const IPV6: u32 = EtherType::Ipv6 as u32;
    match skb(ctx).protocol {
        IPV4 => Some(Version::V4),
        IPV6 => Some(Version::V6),
        _ => None,
    }
}

#[inline(always)]
pub fn is_arp(ctx: &TcContext) -> bool {
    const ARP: u32 = EtherType::Arp as u32;
    skb(ctx).protocol == ARP
}

#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    skb(ctx).mark
}

/// Whether a packet that leaves has come by a device of this namespace: the host forwards it, and hasn't made it.
#[inline(always)]
pub fn is_forwarded(ctx: &TcContext) -> bool {
    skb(ctx).ingress_ifindex != 0
}

/// The index of the device at which the program runs.
#[inline(always)]
pub fn device(ctx: &TcContext) -> u32 {
    skb(ctx).ifindex
}

/// Of linux/if_packet.h.
const PACKET_HOST: u32 = 0;

/// From now on it is for this host, whatever its MAC says.
#[inline(always)]
pub fn set_for_host(ctx: &TcContext) -> Result<(), Unreadable> {
    ctx.skb.change_type(PACKET_HOST).map_err(|_| Unreadable)
}

/// Whether it is for this host, by its MAC, and by a device that sees it as it is: a VLAN's tag is
/// taken off further up, where the packet is seen again.
#[inline(always)]
pub fn is_for_host(ctx: &TcContext) -> bool {
    skb(ctx).pkt_type == PACKET_HOST && !has_vlan(ctx)
}

#[inline(always)]
pub fn has_vlan(ctx: &TcContext) -> bool {
    skb(ctx).vlan_present != 0
}

/// Puts a tag in front of what a packet with an Ethernet header has: the VLAN's number, and four bits.
#[inline(always)]
pub fn push_vlan(ctx: &TcContext, tag: u32) -> Result<(), Unreadable> {
    const PROTOCOL: u16 = EtherType::Ieee8021q as u16;
    // SAFETY: takes numbers only.
    let failed = unsafe { bpf_skb_vlan_push(ctx.skb.skb, PROTOCOL, tag as u16) };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}

/// Takes the first one off.
#[inline(always)]
pub fn pop_vlan(ctx: &TcContext) -> Result<u32, Unreadable> {
    let tag = skb(ctx).vlan_tci;
    // SAFETY: takes nothing.
    let failed = unsafe { bpf_skb_vlan_pop(ctx.skb.skb) };
    if failed == 0 {
        Ok(tag)
    } else {
        Err(Unreadable)
    }
}

/// Bytes of the packet from its network header on.
#[inline(always)]
pub fn len(ctx: &TcContext, link: Link) -> u32 {
    ctx.len().saturating_sub(link.len() as u32)
}

/// Whether it is several datagrams, or segments, that the kernel handles as one.
#[inline(always)]
pub fn is_many(ctx: &TcContext) -> bool {
    many_of(ctx) != 0
}

/// Of so many bytes each, if it is.
#[inline(always)]
pub fn many_of(ctx: &TcContext) -> u32 {
    skb(ctx).gso_size
}

/// `T` is plain bytes: any content is a valid value.
#[inline(always)]
pub fn load<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, Unreadable> {
    let mut value = MaybeUninit::<T>::uninit();
    load_bytes(
        ctx,
        offset,
        value.as_mut_ptr().cast(),
        size_of::<T>() as u64,
    )?;
    // SAFETY: the helper filled it.
    Ok(unsafe { value.assume_init() })
}

/// The same. It lies in the packet's first piece as a rule, and then no helper is needed.
#[inline(always)]
pub fn peek<T: Copy>(ctx: &TcContext, link: Link, offset: usize) -> Result<T, Unreadable> {
    match in_first_piece(ctx, link.len() + offset) {
        Some(value) => Ok(value),
        None => load(ctx, offset),
    }
}

/// The same, if it does lie there.
#[inline(always)]
pub fn peek_only<T: Copy>(ctx: &TcContext, link: Link, offset: usize) -> Option<T> {
    in_first_piece(ctx, link.len() + offset)
}

/// Counts from the packet's start.
#[inline(always)]
fn in_first_piece<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the verifier sees that it is there. Packets needn't lie at multiples of words; where that
    // matters, it refuses the program.
    Some(unsafe { (start as *const T).read() })
}

/// `len` bytes into `to`, which has room for them. As [`load`], of headers only: what is behind them may
/// lie in pages of its own.
#[inline(always)]
pub fn load_bytes(ctx: &TcContext, offset: usize, to: *mut u8, len: u64) -> Result<(), Unreadable> {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    let start = BPF_HDR_START_NET;
    // SAFETY: the helper writes exactly `len` bytes, or fails; the verifier sees that they are there.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(skb.cast(), offset as u32, to.cast(), len as u32, start)
    };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}

/// The same of any bytes; `link` is what the packet has in front of its network header.
#[inline(always)]
pub fn load_payload(
    ctx: &TcContext,
    link: Link,
    offset: usize,
    to: *mut u8,
    len: u64,
) -> Result<(), Unreadable> {
    let at = (link.len() + offset) as u32;
    // SAFETY: as above.
    let failed = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), at, to.cast(), len as u32) };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}

/// Has the headers, up to the longest of TCP's, lie in one piece, if they don't.
#[inline(always)]
pub fn gather_headers(ctx: &TcContext) {
    const LONGEST: u32 = 14 + 60 + 60;
    let len = LONGEST.min(ctx.len());
    if ctx.data() + len as usize > ctx.data_end() {
        // A packet may be shorter: reading says so.
        let _ = ctx.pull_data(len);
    }
}

/// The same, unless `len` bytes from the network header on do: drivers may leave all of a packet but the Ethernet header in
/// pages.
#[inline(always)]
pub fn gather_least(ctx: &TcContext, link: Link, len: usize) {
    if ctx.data() + link.len() + len > ctx.data_end() {
        gather_headers(ctx);
    }
}

/// Has all of the packet lie in one piece, if it doesn't.
#[inline(always)]
pub fn gather(ctx: &TcContext) -> Result<(), Unreadable> {
    if ctx.data() + ctx.len().min(0xffff) as usize <= ctx.data_end() {
        return Ok(());
    }
    ctx.pull_data(ctx.len()).map_err(|_| Unreadable)
}

/// Overwrites bytes of a packet that has an Ethernet header.
#[inline(always)]
pub fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), Unreadable> {
    ctx.store(EthHdr::LEN + offset, value, 0)
        .map_err(|_| Unreadable)
}

/// The same with `len` bytes, where the kernel keeps a sum of the whole packet right by itself.
#[inline(always)]
pub fn store_bytes(
    ctx: &TcContext,
    offset: usize,
    from: *const u8,
    len: u64,
) -> Result<(), Unreadable> {
    let at = (EthHdr::LEN + offset) as u32;
    let flags = BPF_F_RECOMPUTE_CSUM.into();
    // SAFETY: the verifier sees that `from` has `len` bytes.
    let failed = unsafe { bpf_skb_store_bytes(ctx.skb.skb, at, from.cast(), len as u32, flags) };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}

/// Overwrites both MAC addresses of a packet that has an Ethernet header.
#[inline(always)]
pub fn set_macs(ctx: &TcContext, mac: [u8; 6]) -> Result<(), Unreadable> {
    ctx.store(0, &[mac, mac], 0).map_err(|_| Unreadable)
}

/// Sends a packet with an Ethernet header back to where it came from, if that is `mac`.
#[inline(always)]
pub fn turn_back(ctx: &TcContext, mac: [u8; 6]) -> Result<bool, Unreadable> {
    let Some([to, from]) = in_first_piece::<[[u8; 6]; 2]>(ctx, 0) else {
        return Ok(false);
    };
    if from != mac {
        return Ok(false);
    }
    ctx.store(0, &[from, to], 0).map_err(|_| Unreadable)?;
    Ok(true)
}

/// The MAC that a packet with an Ethernet header is for.
#[inline(always)]
pub fn mac(ctx: &TcContext) -> Option<[u8; 6]> {
    in_first_piece(ctx, 0)
}
