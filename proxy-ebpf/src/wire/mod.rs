//! What packets say, read once into copies, and what is written into them.

mod change;
pub mod cut;
pub mod datagram;
pub mod family;
pub mod fragment;
pub mod icmp;
pub mod icmp_family;
pub mod options;
pub mod proxy;
pub mod rewrite;
pub mod segment;
pub mod skb;

use core::{mem::offset_of, ptr::from_ref};

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::bpf_csum_diff,
    programs::TcContext,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};
use proxy_common::Addr;

use crate::ctx::{self, Link, Unreadable, Version};

#[inline(always)]
pub fn source(ctx: &TcContext, version: Version, link: Link) -> Result<Addr, Unreadable> {
    match version {
        Version::V4 => ctx::peek(ctx, link, offset_of!(Ipv4Hdr, src_addr)).map(Addr::from_v4),
        Version::V6 => ctx::peek(ctx, link, offset_of!(Ipv6Hdr, src_addr)).map(Addr::from_v6),
    }
}

#[inline(always)]
pub fn destination(ctx: &TcContext, version: Version, link: Link) -> Result<Addr, Unreadable> {
    match version {
        Version::V4 => ctx::peek(ctx, link, offset_of!(Ipv4Hdr, dst_addr)).map(Addr::from_v4),
        Version::V6 => ctx::peek(ctx, link, offset_of!(Ipv6Hdr, dst_addr)).map(Addr::from_v6),
    }
}

/// Where TCP's header is if nothing is between it and the fixed one of IP.
#[inline(always)]
pub const fn plain_offset(version: Version) -> usize {
    match version {
        Version::V4 => Ipv4Hdr::LEN,
        Version::V6 => Ipv6Hdr::LEN,
    }
}

/// Of a word, as they lie in memory.
#[inline(always)]
pub const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// What changing `old` into `new` does to a checksum.
#[inline(always)]
pub fn difference<T>(old: &T, new: &T) -> Result<u32, Unreadable> {
    let len = size_of::<T>() as u32;
    let (old, new) = (from_ref(old).cast_mut(), from_ref(new).cast_mut());
    // SAFETY: both are there for `len` bytes, and the helper only reads them.
    let sum = unsafe { bpf_csum_diff(old.cast(), len, new.cast(), len, 0) };
    u32::try_from(sum).map_err(|_| Unreadable)
}

/// The sum of `bytes` on top of `seed`.
#[inline(always)]
pub fn sum<T>(bytes: &T, seed: u32) -> u32 {
    let from = from_ref(bytes).cast_mut().cast();
    // SAFETY: as above; nothing is taken away.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from, size_of::<T>() as u32, seed) as u32 }
}

/// A UDP checksum of 0 is none, and stays that; one that becomes 0 is written as its other form.
pub const UNSET: u64 = BPF_F_MARK_MANGLED_0 as u64;

/// Adds to the TCP, UDP or ICMP checksum at `check`.
#[inline(always)]
pub fn replace_sum(ctx: &TcContext, check: usize, sum: u32, flags: u64) -> Result<(), Unreadable> {
    ctx.l4_csum_replace(EthHdr::LEN + check, 0, sum.into(), flags)
        .map_err(|_| Unreadable)
}

/// The same with what addresses do to it, which are in the pseudo-header.
#[inline(always)]
pub fn replace_pseudo_sum(
    ctx: &TcContext,
    version: Version,
    check: usize,
    sum: u32,
    flags: u64,
) -> Result<(), Unreadable> {
    /// Of linux/bpf.h since 6.16.
    const BPF_F_IPV6: u64 = 1 << 7;
    let flags = flags | u64::from(BPF_F_PSEUDO_HDR);
    match version {
        Version::V4 => replace_sum(ctx, check, sum, flags),
        // Kernels that don't know the flag refuse it.
        Version::V6 => replace_sum(ctx, check, sum, flags | BPF_F_IPV6)
            .or_else(|Unreadable| replace_sum(ctx, check, sum, flags)),
    }
}

/// Adds to the checksum of the IP header at `at`; IPv6 has none.
#[inline(always)]
pub fn replace_ip_sum(
    ctx: &TcContext,
    version: Version,
    at: usize,
    sum: u32,
) -> Result<(), Unreadable> {
    let Version::V4 = version else {
        return Ok(());
    };
    let check = EthHdr::LEN + at + offset_of!(Ipv4Hdr, check);
    ctx.l3_csum_replace(check, 0, sum.into(), 0)
        .map_err(|_| Unreadable)
}

/// Source and destination in the IP header at `at`.
#[inline(always)]
pub fn load_addresses(
    ctx: &TcContext,
    version: Version,
    at: usize,
) -> Result<[Addr; 2], Unreadable> {
    match version {
        Version::V4 => {
            let words: [u32; 2] = ctx::load(ctx, at + offset_of!(Ipv4Hdr, src_addr))?;
            Ok(words.map(Addr::from_v4))
        }
        Version::V6 => ctx::load(ctx, at + offset_of!(Ipv6Hdr, src_addr)),
    }
}

#[inline(always)]
pub fn store_addresses(
    ctx: &TcContext,
    version: Version,
    at: usize,
    addresses: &[Addr; 2],
) -> Result<(), Unreadable> {
    match version {
        Version::V4 => {
            let words = [addresses[0].words()[3], addresses[1].words()[3]];
            ctx::store(ctx, at + offset_of!(Ipv4Hdr, src_addr), &words)
        }
        Version::V6 => ctx::store(ctx, at + offset_of!(Ipv6Hdr, src_addr), addresses),
    }
}
