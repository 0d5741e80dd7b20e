//! The way back: what an application sends to a spoofed client leaves for the spoof namespace
//! instead of the network.
//!
//! An application on this host answers from a steer address, which tells its packets on the egress
//! of every device but `lo` and our own. One elsewhere answers from its own address, through this
//! host: its packets are told on ingress, by the spoofed connection that they belong to.

use aya_ebpf::programs::TcContext;
use proxy_common::VETH_MAC;

use crate::{
    maps,
    packet::{self, Unreadable, Version},
    socket::with_socket,
};

pub enum Verdict {
    /// None of ours.
    Foreign,
    /// To the spoof namespace.
    Steer,
}

pub enum Reason {
    NoHeader,
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
    match packet::source(ctx, version) {
        Ok(source) if maps::is_steer(&source) => steer(ctx, link, version),
        Ok(_) | Err(Unreadable) => Ok(Verdict::Foreign),
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
    .map(|()| Verdict::Steer)
    .map_err(|Unreadable| Reason::NoHeader)
}
