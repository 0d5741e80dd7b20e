//! Where the host's routes lead.

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Fib},
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use network_types::ip::IpProto;
use proxy_common::handover::Flow;

use crate::{maps, packet::Version};

/// The index of the device that a packet from the spoof namespace would leave by. Its neighbour is
/// the kernel's to find.
#[inline(always)]
pub fn device(ctx: &TcContext, version: Version, flow: &Flow) -> Option<u32> {
    match look_up(ctx, version, flow) {
        0 => None,
        device => Some(device),
    }
}

/// A function of its own, as a program's stack has 512 bytes; 0 is no device.
#[inline(never)]
fn look_up(ctx: &TcContext, version: Version, flow: &Flow) -> u32 {
    try_look_up(ctx, version, flow).unwrap_or(0)
}

#[inline(always)]
fn try_look_up(ctx: &TcContext, version: Version, flow: &Flow) -> Option<u32> {
    let Flow {
        source: from,
        destination: to,
    } = flow;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // SAFETY: made of integers.
    let mut fib: Fib = unsafe { zeroed() };
    fib.l4_protocol = IpProto::Tcp as u8;
    fib.ifindex = maps::device();
    match version {
        Version::V4 => {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = from.addr().v4()?;
            fib.__bindgen_anon_4.ipv4_dst = to.addr().v4()?;
        }
        Version::V6 => {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = from.addr().words();
            fib.__bindgen_anon_4.ipv6_dst = to.addr().words();
        }
    }
    let len = size_of_val(&fib) as i32;
    // SAFETY: `fib` lives on this stack, and the kernel gets its length.
    let found = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut fib, len, 0) };
    match found as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => Some(fib.ifindex),
        _ => None,
    }
}
