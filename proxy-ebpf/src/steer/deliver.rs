//! Where a spoofed connection meets the application: a listener bound to 127.0.0.1, ::1 or one
//! address doesn't hear a steer address, so it is remembered for `dispatch`, which the kernel asks
//! wherever it looks for a listener: for the SYN, for a SYN cookie's ACK, and for a client that
//! comes back while its last connection is in TIME_WAIT.
//!
//! Only when the kernel would find nothing by itself: a wildcard listener needs no help.
//!
//! A listener that can't be in a map, as MPTCP's, has the SYN assigned to it. That is the second
//! choice: since Linux 6.16, nftables' `fib` takes such a packet's reverse path for wrong.

use aya_ebpf::{helpers::bpf_sk_assign, programs::TcContext};
use proxy_common::flow::Tuple;

use crate::{
    ctx::{Link, Version},
    direct::sweep,
    lookup::socket::{HERE, with_socket},
    maps,
    wire::segment::{self, Kind},
};

pub enum Verdict {
    /// Not the start of a connection: its socket is found by the kernel.
    Later,
    /// The kernel finds a socket by itself.
    Found,
    /// To the target's listener.
    Assigned,
}

pub enum Reason {
    Unreadable,
    /// The client has a direct connection from this port, which it had not a moment ago.
    Taken,
    NoTarget,
    NoListener,
    AssignFailed,
}

#[inline(always)]
pub fn deliver(ctx: &TcContext, version: Version) -> Result<Verdict, Reason> {
    let scratch = maps::scratch().ok_or(Reason::Unreadable)?;
    let segment = &mut scratch.segment;
    let kind = segment::read(ctx, version, Link::Ethernet, segment);
    if kind != Kind::Tcp || !segment.is_first() {
        return Ok(Verdict::Later);
    }
    let steered = &segment.tuple.destination();
    // What is left of a direct connection of this client would take this one's replies.
    if !sweep::forget_left(ctx, version, &segment.tuple.reversed()) {
        return Err(Reason::Taken);
    }
    if with_socket(ctx, version, &segment.tuple, HERE, |_| ()).is_some() {
        return Ok(Verdict::Found);
    }
    let target = maps::target(steered).ok_or(Reason::NoTarget)?;
    let to_target = Tuple::new(segment.tuple.source(), target);
    let assigned = with_socket(ctx, version, &to_target, HERE, |socket| {
        // SAFETY: `socket` is the reference that the lookup just took.
        maps::remember_app(steered, socket)
            || unsafe { bpf_sk_assign(ctx.skb.skb.cast(), socket.cast(), 0) } == 0
    });
    match assigned {
        None => Err(Reason::NoListener),
        Some(true) => Ok(Verdict::Assigned),
        Some(false) => Err(Reason::AssignFailed),
    }
}
