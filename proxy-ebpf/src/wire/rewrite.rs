//! Other addresses and ports for a segment.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};
use proxy_common::{
    checksum::{add, fold},
    flow::{Rewrite, Tuple},
};

use super::{difference, halves, plain_offset, replace_pseudo_sum, replace_sum};
use crate::ctx::{self, Link, Unreadable, Version};

/// Fills in what makes `rewrite.to` of `from`.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn prepare(rewrite: &mut Rewrite, from: &Tuple) -> Result<(), Unreadable> {
    let to = &rewrite.to;
    rewrite.addresses = difference(from.both_addresses(), to.both_addresses())?;
    rewrite.ports = difference(&from.ports(), &to.ports())?;
    Ok(())
}

/// Gives a segment, whose TCP header is at `at`, its new tuple. Its packet has an Ethernet header.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn apply(
    ctx: &TcContext,
    version: Version,
    at: u32,
    rewrite: &Rewrite,
) -> Result<(), Unreadable> {
    let check = at as usize + offset_of!(TcpHdr, check);
    store(ctx, version, at, rewrite)?;
    replace_pseudo_sum(ctx, version, check, rewrite.addresses, 0)?;
    replace_sum(ctx, check, rewrite.ports, 0)
}

#[inline(always)]
fn store(ctx: &TcContext, version: Version, at: u32, rewrite: &Rewrite) -> Result<(), Unreadable> {
    let at = at as usize;
    let Rewrite { to, addresses, .. } = rewrite;
    let is_plain = at == plain_offset(version);
    match version {
        Version::V4 => {
            let [source, destination] = to.addresses().map(|addr| addr.words()[3]);
            let [sport, dport] = to.ports();
            let at_check = offset_of!(Ipv4Hdr, check);
            let before: u16 = ctx::peek(ctx, Link::ETHERNET, at_check)?;
            let check = !fold(add(*addresses, u32::from(!before)));
            let [a, b] = halves(source);
            let [c, d] = halves(destination);
            // The checksum is right in front of the addresses.
            if is_plain {
                ctx::store(ctx, at_check, &[check, a, b, c, d, sport, dport])?;
            } else {
                ctx::store(ctx, at_check, &[check, a, b, c, d])?;
                ctx::store(ctx, at, &[sport, dport])?;
            }
        }
        Version::V6 => {
            let addrs = offset_of!(Ipv6Hdr, src_addr);
            if is_plain {
                ctx::store(ctx, addrs, to)?;
            } else {
                let [source, destination] = to.addresses();
                ctx::store(ctx, addrs, source)?;
                ctx::store(ctx, addrs + size_of_val(source), destination)?;
                ctx::store(ctx, at, &to.ports())?;
            }
        }
    }
    Ok(())
}
