//! Ingress of the veth's host end: a packet from a spoofed client to an application.
//!
//! It enters the host by `lo`, which host firewalls accept. A strict rp_filter on `lo` would drop
//! it there; then it goes on through the veth, and `deliver`'s work is done here.

use aya_ebpf::programs::TcContext;

use crate::{
    deliver, maps,
    packet::{self, Unreadable},
};

pub enum Verdict {
    /// To `lo`, marked for `deliver`.
    Lo,
    /// In through this device, with what `deliver` says.
    Here(Result<deliver::Verdict, deliver::Reason>),
}

pub enum Reason {
    /// Not for a steer address.
    Stray,
    NoHeader,
}

/// `lo`'s own address: a frame to any other is not for this host.
const LO_MAC: [u8; 6] = [0; 6];

#[inline(always)]
pub fn inject(ctx: &TcContext) -> Result<Verdict, Reason> {
    let version = packet::version(ctx).ok_or(Reason::Stray)?;
    match packet::destination(ctx, version) {
        Ok(destination) if maps::is_steer(&destination) => {}
        Ok(_) | Err(Unreadable) => return Err(Reason::Stray),
    }
    if !maps::via_lo() {
        return Ok(Verdict::Here(deliver::deliver(ctx, version)));
    }
    packet::set_macs(ctx, LO_MAC)
        .map(|()| Verdict::Lo)
        .map_err(|Unreadable| Reason::NoHeader)
}
