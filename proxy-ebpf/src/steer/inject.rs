//! Ingress of the veth's host end: a packet from a spoofed client to an application.
//!
//! To one on this host it goes by `lo`, which host firewalls accept. A strict rp_filter on `lo`
//! would drop it there; then it goes on through the veth, and `deliver`'s work is done here.
//!
//! To one elsewhere it goes straight to the device that leads there, past ip_forward and the
//! FORWARD chain.

use aya_ebpf::programs::TcContext;
use proxy_common::LO_MAC;

use super::deliver;
use crate::{
    ctx::{self, Link, Unreadable, Version},
    lookup::route,
    maps,
    wire::{
        self,
        segment::{self, Kind},
    },
};

pub enum Verdict {
    /// A packet of a balancer, which `direct` sent in through this device.
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

#[inline(always)]
pub fn inject(ctx: &TcContext) -> Result<Verdict, Reason> {
    if ctx::mark(ctx) == maps::mark() {
        ctx.set_mark(0);
        return Ok(Verdict::Forwarded);
    }
    let version = ctx::version(ctx).ok_or(Reason::Stray)?;
    let destination = wire::destination(ctx, version, Link::Ethernet);
    let destination = destination.map_err(|Unreadable| Reason::Stray)?;
    if !maps::is_steer(&destination) {
        return beyond(ctx, version);
    }
    if !maps::via_lo() {
        return Ok(Verdict::Here(deliver::deliver(ctx, version)));
    }
    ctx::set_macs(ctx, LO_MAC)
        .map(|()| Verdict::Lo)
        .map_err(|Unreadable| Reason::NoHeader)
}

#[inline(always)]
fn beyond(ctx: &TcContext, version: Version) -> Result<Verdict, Reason> {
    let scratch = maps::scratch().ok_or(Reason::Stray)?;
    let segment = &mut scratch.segment;
    let kind = segment::read(ctx, version, Link::Ethernet, segment);
    if kind != Kind::Tcp || !maps::is_remote(&segment.tuple.destination()) {
        return Err(Reason::Stray);
    }
    let way = route::way(ctx, version, &segment.tuple);
    way.map(|way| Verdict::Beyond(way.device))
        .ok_or(Reason::NoRoute)
}
