//! Where a spoofed connection meets the application: a listener bound to 127.0.0.1, ::1 or one
//! address doesn't hear a steer address, so the SYN is assigned to it.
//!
//! Only when the kernel would find nothing by itself: a wildcard listener needs no help, and a
//! SYN for a TIME_WAIT socket has to reach that one, or the same client can't come back.

use aya_ebpf::{bindings::BPF_F_CURRENT_NETNS, helpers::bpf_sk_assign, programs::TcContext};

use crate::{
    maps,
    packet::{self, Unreadable, Version},
    socket::with_socket,
};

pub enum Verdict {
    /// Not the start of a connection: its socket is found by the kernel.
    Later,
    /// The kernel finds a socket by itself.
    Found,
    /// Assigned to the target's listener.
    Assigned,
}

pub enum Reason {
    Unreadable,
    NoTarget,
    NoListener,
    AssignFailed,
}

const HERE: u64 = BPF_F_CURRENT_NETNS as u64;

#[inline(always)]
pub fn deliver(ctx: &TcContext, version: Version) -> Result<Verdict, Reason> {
    let segment = packet::segment(ctx, version).map_err(|Unreadable| Reason::Unreadable)?;
    let Some(syn) = segment.filter(|segment| segment.first) else {
        return Ok(Verdict::Later);
    };
    let (client, steered) = (&syn.source, &syn.destination);
    if with_socket(ctx, version, [client, steered], HERE, |_| ()).is_some() {
        return Ok(Verdict::Found);
    }
    let target = maps::target(steered).ok_or(Reason::NoTarget)?;
    let assigned = with_socket(ctx, version, [client, &target], HERE, |socket| {
        // SAFETY: `socket` is the reference that the lookup just took.
        unsafe { bpf_sk_assign(ctx.skb.skb.cast(), socket.cast(), 0) }
    });
    match assigned {
        None => Err(Reason::NoListener),
        Some(0) => Ok(Verdict::Assigned),
        Some(_) => Err(Reason::AssignFailed),
    }
}
