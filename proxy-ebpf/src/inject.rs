//! Ingress of the veth's host end: a packet from a spoofed client to an application.
//!
//! To one on this host it goes by `lo`, which host firewalls accept. A strict rp_filter on `lo`
//! would drop it there; then it goes on through the veth, and `deliver`'s work is done here.
//!
//! To one elsewhere it goes straight to the device that leads there, past ip_forward and the
//! FORWARD chain.

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Fib},
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use network_types::ip::IpProto;

use crate::{
    deliver, maps,
    packet::{self, Segment, Unreadable, Version},
};

pub enum Verdict {
    /// To `lo`, marked for `deliver`.
    Lo,
    /// In through this device, with what `deliver` says.
    Here(Result<deliver::Verdict, deliver::Reason>),
    /// Out by the device of this index.
    Beyond(u32),
}

pub enum Reason {
    /// Neither for a steer address nor for a target.
    Stray,
    NoHeader,
    NoRoute,
}

/// `lo`'s own address: a frame to any other is not for this host.
const LO_MAC: [u8; 6] = [0; 6];

#[inline(always)]
pub fn inject(ctx: &TcContext) -> Result<Verdict, Reason> {
    let version = packet::version(ctx).ok_or(Reason::Stray)?;
    let destination = packet::destination(ctx, version);
    let destination = destination.map_err(|Unreadable| Reason::Stray)?;
    if !maps::is_steer(&destination) {
        return beyond(ctx, version);
    }
    if !maps::via_lo() {
        return Ok(Verdict::Here(deliver::deliver(ctx, version)));
    }
    packet::set_macs(ctx, LO_MAC)
        .map(|()| Verdict::Lo)
        .map_err(|Unreadable| Reason::NoHeader)
}

#[inline(always)]
fn beyond(ctx: &TcContext, version: Version) -> Result<Verdict, Reason> {
    match packet::segment(ctx, version) {
        Ok(Some(segment)) if maps::is_remote(&segment.destination) => {
            route(ctx, version, &segment).map(Verdict::Beyond)
        }
        Ok(_) | Err(Unreadable) => Err(Reason::Stray),
    }
}

/// The index of the device that the host's routes name. Its neighbour is the kernel's to find.
#[inline(always)]
fn route(ctx: &TcContext, version: Version, segment: &Segment) -> Result<u32, Reason> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // SAFETY: made of integers.
    let mut fib: Fib = unsafe { zeroed() };
    fib.l4_protocol = IpProto::Tcp as u8;
    fib.ifindex = maps::device();
    let (client, target) = (segment.source.addr(), segment.destination.addr());
    match version {
        Version::V4 => {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = client.v4().ok_or(Reason::NoRoute)?;
            fib.__bindgen_anon_4.ipv4_dst = target.v4().ok_or(Reason::NoRoute)?;
        }
        Version::V6 => {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = client.words();
            fib.__bindgen_anon_4.ipv6_dst = target.words();
        }
    }
    let len = size_of_val(&fib) as i32;
    // SAFETY: `fib` lives on this stack, and the kernel gets its length.
    let found = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut fib, len, 0) };
    match found as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => Ok(fib.ifindex),
        _ => Err(Reason::NoRoute),
    }
}
