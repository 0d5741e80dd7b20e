//! The way back: what an application sends to a client leaves for the balancer, if the connection is
//! direct, or for the spoof namespace, instead of the network.
//!
//! An application on this host answers from a steer address, which tells its packets on the egress
//! of every device but `lo` and our own. One elsewhere answers from its own address, through this
//! host: its packets are told on ingress, by the spoofed connection that they belong to.

use aya_ebpf::programs::TcContext;
use proxy_common::VETH_MAC;

use crate::{
    ctx::{self, Link, Unreadable, Version},
    direct::down,
    lookup::socket::with_socket,
    maps,
    wire::{
        self,
        segment::{self, Kind},
    },
};

pub enum Verdict {
    /// None of ours.
    Foreign,
    /// To the spoof namespace.
    Steer,
    /// To the balancer of a direct connection.
    Direct(down::Way),
}

pub enum Reason {
    NoHeader,
    Direct(down::Reason),
}

#[inline(always)]
pub fn reply(ctx: &TcContext, link: Link) -> Result<Verdict, Reason> {
    let Some(version) = ctx::version(ctx) else {
        return Ok(Verdict::Foreign);
    };
    match wire::source(ctx, version, link) {
        Ok(source) if maps::is_steer(&source) => from_app(ctx, link, version),
        Ok(_) | Err(Unreadable) => Ok(Verdict::Foreign),
    }
}

#[inline(always)]
fn from_app(ctx: &TcContext, link: Link, version: Version) -> Result<Verdict, Reason> {
    match down::down(ctx, version, link) {
        Ok(Some(way)) => Ok(Verdict::Direct(way)),
        Ok(None) => steer(ctx, link, version),
        Err(reason) => Err(Reason::Direct(reason)),
    }
}

/// What leaves by our own device: steered here, or led by the default route that it may have.
#[inline(always)]
pub fn reply_own(ctx: &TcContext) -> Result<Verdict, Reason> {
    if ctx::mark(ctx) == maps::mark() {
        ctx.set_mark(0);
        return Ok(Verdict::Foreign);
    }
    match reply(ctx, Link::Ethernet) {
        Ok(Verdict::Steer) => {
            ctx.set_mark(0);
            Ok(Verdict::Foreign)
        }
        verdict => verdict,
    }
}

#[inline(always)]
pub fn reply_remote(ctx: &TcContext, link: Link) -> Result<Verdict, Reason> {
    let (Some(version), Some(scratch)) = (ctx::version(ctx), maps::scratch()) else {
        return Ok(Verdict::Foreign);
    };
    let segment = &mut scratch.segment;
    if segment::read(ctx, version, link, segment) != Kind::Tcp {
        return Ok(Verdict::Foreign);
    }
    if !maps::is_remote(&segment.tuple.source()) {
        return Ok(Verdict::Foreign);
    }
    // Nothing listens in the spoof namespace, so whatever is found is a spoofed connection, also
    // one in TIME_WAIT.
    match with_socket(ctx, version, &segment.tuple, maps::spoof_netns(), |_| ()) {
        Some(()) => steer(ctx, link, version),
        None => Ok(Verdict::Foreign),
    }
}

#[inline(always)]
fn steer(ctx: &TcContext, link: Link, version: Version) -> Result<Verdict, Reason> {
    match link {
        Link::Ethernet => ctx::set_macs(ctx, VETH_MAC),
        Link::Bare => ctx::add_ethernet(ctx, VETH_MAC, version),
    }
    .map(|()| {
        ctx.set_mark(maps::mark());
        Verdict::Steer
    })
    .map_err(|Unreadable| Reason::NoHeader)
}
