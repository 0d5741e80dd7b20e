//! The way back: what an application sends to a spoofed client leaves for the spoof namespace
//! instead of the network.
//!
//! An application on this host answers from a steer address, which tells its packets on the egress
//! of every device but `lo` and our own. One elsewhere answers from its own address, through this
//! host: its packets are told on ingress, by the spoofed connection that they belong to.

use aya_ebpf::programs::TcContext;
use proxy_common::VETH_MAC;

use crate::{
    handover::{self, Receiver},
    maps,
    packet::{self, Unreadable, Version},
    socket::with_socket,
};

pub enum Verdict {
    /// None of ours.
    Foreign,
    /// To the spoof namespace.
    Steer,
    /// To the balancer, by the device of this index.
    ToBalancer(u32),
}

pub enum Reason {
    NoHeader,
    /// Of a connection that was handed over and is over: nobody waits for it.
    Late,
}

/// Whether the device's packets carry an Ethernet header.
#[derive(Clone, Copy)]
pub enum Link {
    Ethernet,
    Bare,
}

#[inline(always)]
pub fn reply(ctx: &TcContext, link: Link) -> Result<Verdict, Reason> {
    let Some(version) = packet::version(ctx) else {
        return Ok(Verdict::Foreign);
    };
    if let Link::Ethernet = link
        && maps::hands_over()
        && packet::mark(ctx) == maps::mark()
    {
        return leave(ctx, version);
    }
    match packet::source(ctx, version) {
        Ok(source) if maps::is_steer(&source) => from_app(ctx, link, version),
        Ok(_) | Err(Unreadable) => Ok(Verdict::Foreign),
    }
}

/// A packet of the daemon to the balancer of a connection that was handed over.
#[inline(always)]
fn leave(ctx: &TcContext, version: Version) -> Result<Verdict, Reason> {
    ctx.set_mark(0);
    match handover::leave(ctx, version, Receiver::Balancer) {
        handover::Leave::AsItIs => Ok(Verdict::Foreign),
        handover::Leave::Unheard => Err(Reason::Late),
    }
}

#[inline(always)]
fn from_app(ctx: &TcContext, link: Link, version: Version) -> Result<Verdict, Reason> {
    if let Link::Bare = link {
        packet::add_ethernet(ctx, VETH_MAC, version).map_err(|Unreadable| Reason::NoHeader)?;
    }
    if !maps::hands_over() {
        return steer(ctx, Link::Ethernet, version);
    }
    match handover::reply(ctx, version) {
        Ok(handover::Reply::ToBalancer(device)) => Ok(Verdict::ToBalancer(device)),
        Ok(handover::Reply::Steer) => steer(ctx, Link::Ethernet, version),
        Err(handover::Failed) => Err(Reason::NoHeader),
    }
}

/// What leaves by our own device: steered here, or led by the default route that it may have.
#[inline(always)]
pub fn reply_own(ctx: &TcContext) -> Result<Verdict, Reason> {
    if packet::mark(ctx) == maps::mark() {
        ctx.set_mark(0);
        return Ok(Verdict::Foreign);
    }
    match reply(ctx, Link::Ethernet) {
        Ok(Verdict::Steer) => Ok(Verdict::Foreign),
        verdict => verdict,
    }
}

#[inline(always)]
pub fn reply_remote(ctx: &TcContext, link: Link) -> Result<Verdict, Reason> {
    let Some(version) = packet::version(ctx) else {
        return Ok(Verdict::Foreign);
    };
    let Ok(Some(segment)) = packet::segment(ctx, version) else {
        return Ok(Verdict::Foreign);
    };
    if !maps::is_remote(&segment.source) {
        return Ok(Verdict::Foreign);
    }
    // Nothing listens in the spoof namespace, so whatever is found is a spoofed connection, also
    // one in TIME_WAIT.
    let tuple = [&segment.source, &segment.destination];
    match with_socket(ctx, version, tuple, maps::spoof_netns(), |_| ()) {
        Some(()) => steer(ctx, link, version),
        None => Ok(Verdict::Foreign),
    }
}

#[inline(always)]
fn steer(ctx: &TcContext, link: Link, version: Version) -> Result<Verdict, Reason> {
    match link {
        Link::Ethernet => packet::set_macs(ctx, VETH_MAC),
        Link::Bare => packet::add_ethernet(ctx, VETH_MAC, version),
    }
    .map(|()| {
        ctx.set_mark(maps::mark());
        Verdict::Steer
    })
    .map_err(|Unreadable| Reason::NoHeader)
}
