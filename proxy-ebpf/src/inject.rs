//! Ingress of the veth's host end: a packet from a spoofed client to an application.
//!
//! To one on this host it goes by `lo`, which host firewalls accept. A strict rp_filter on `lo`
//! would drop it there; then it goes on through the veth, and `deliver`'s work is done here.
//!
//! To one elsewhere it goes straight to the device that leads there, past ip_forward and the
//! FORWARD chain.

use aya_ebpf::programs::TcContext;
use proxy_common::handover::Flow;

use crate::{
    deliver,
    handover::{self, Receiver},
    maps,
    packet::{self, Unreadable, Version},
    route,
};

pub enum Verdict {
    /// A packet of a balancer, which `forward` sent in through this device.
    Forwarded,
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
pub const LO_MAC: [u8; 6] = [0; 6];

#[inline(always)]
pub fn inject(ctx: &TcContext) -> Result<Verdict, Reason> {
    if packet::mark(ctx) == maps::mark() {
        ctx.set_mark(0);
        return Ok(Verdict::Forwarded);
    }
    let version = packet::version(ctx).ok_or(Reason::Stray)?;
    let destination = packet::destination(ctx, version);
    let destination = destination.map_err(|Unreadable| Reason::Stray)?;
    if !maps::is_steer(&destination) {
        return beyond(ctx, version);
    }
    if maps::hands_over()
        && let handover::Leave::Unheard = handover::leave(ctx, version, Receiver::App)
    {
        return Err(Reason::Stray);
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
            let flow = Flow {
                source: segment.source,
                destination: segment.destination,
            };
            let device = route::device(ctx, version, &flow);
            device.map(Verdict::Beyond).ok_or(Reason::NoRoute)
        }
        Ok(_) | Err(Unreadable) => Err(Reason::Stray),
    }
}
