//! Egress of every device but `lo` and our own: what an application sends to a spoofed client has
//! a steer address as its source. It leaves for the spoof namespace instead of the network.

use aya_ebpf::programs::TcContext;
use proxy_common::VETH_MAC;

use crate::{
    maps,
    packet::{self, Unreadable},
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
        Ok(source) if maps::is_steer(&source) => {}
        Ok(_) | Err(Unreadable) => return Ok(Verdict::Foreign),
    }
    match link {
        Link::Ethernet => packet::set_macs(ctx, VETH_MAC),
        Link::Bare => packet::add_ethernet(ctx, VETH_MAC, version),
    }
    .map(|()| Verdict::Steer)
    .map_err(|Unreadable| Reason::NoHeader)
}
