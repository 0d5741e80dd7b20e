//! Where a spoofed connection meets the application: the target's listener is remembered for
//! `dispatch`, which the kernel asks wherever it looks for a listener: for the SYN, for a SYN cookie's
//! ACK, and for a client that comes back while its last connection is in TIME_WAIT. Whoever else
//! listens at a steer address hears nothing.
//!
//! A listener that can't be in a map, as MPTCP's, has the SYN assigned to it. That is the second
//! choice: since Linux 6.16, nftables' `fib` takes such a packet's reverse path for wrong.

use aya_ebpf::{helpers::bpf_sk_assign, programs::TcContext};
use proxy_common::{Counter, LO, flow::Tuple};

use crate::{
    ctx::{self, Link, Version},
    direct::sweep,
    lookup::socket::{HERE, LISTEN, from_nobody, hears, with_socket},
    maps, segmenter,
    verdict::Verdict,
    wire::{
        self, fragment,
        segment::{self, Kind},
    },
};

#[inline(always)]
pub fn deliver(ctx: &TcContext) -> Verdict {
    if ctx::mark(ctx) != maps::mark() {
        return foreign(ctx);
    }
    ctx.set_mark(0);
    if ctx::has_vlan(ctx) {
        return segmenter::put_back(ctx);
    }
    if !is_entrance(ctx) && ctx::set_for_host(ctx).is_err() {
        return Verdict::drop(Counter::DeliverFailed);
    }
    match ctx::version(ctx) {
        Some(version) => to_app(ctx, version),
        None => Verdict::FOREIGN,
    }
}

/// By a device where an application hears alone, nobody else has anything to say to it.
#[inline(always)]
fn foreign(ctx: &TcContext) -> Verdict {
    if is_entrance(ctx) {
        return Verdict::FOREIGN;
    }
    let to = ctx::version(ctx).map(|version| wire::destination(ctx, version, Link::ETHERNET));
    match to {
        Some(Ok(to)) if maps::is_steer(&to) => Verdict::drop(Counter::InjectStray),
        _ => Verdict::FOREIGN,
    }
}

/// Whether it is one of the devices by which clients enter the host wherever applications listen.
#[inline(always)]
pub fn is_entrance(ctx: &TcContext) -> bool {
    let device = ctx::device(ctx);
    device == LO || device == maps::device()
}

/// Nearly whatever comes of it, the packet goes on: without a socket the kernel answers RST by itself.
#[inline(always)]
pub fn to_app(ctx: &TcContext, version: Version) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return Verdict::pass(Counter::DeliverFailed);
    };
    let segment = &mut scratch.segment;
    let kind = segment::read(ctx, version, Link::ETHERNET, segment);
    let first_piece = match kind {
        Kind::Other => fragment::datagram(ctx, version),
        Kind::Icmp | Kind::Tcp | Kind::Udp => None,
    };
    if let Some(tuple) = first_piece {
        segment.tuple = tuple;
    }
    if kind == Kind::Udp || first_piece.is_some() {
        return datagram(ctx, version, &segment.tuple);
    }
    if kind != Kind::Tcp || !segment.is_first() {
        // Its socket is found by the kernel.
        return Verdict::FOREIGN;
    }
    let steered = &segment.tuple.destination();
    // What is left of a direct connection of this client would take this one's replies.
    if !sweep::forget_left(ctx, version, &segment.tuple.reversed()) {
        return Verdict::drop(Counter::DeliverTaken);
    }
    // SAFETY: the reference that the lookup just took.
    let state = with_socket(ctx, version, &segment.tuple, HERE, |socket| unsafe {
        (*socket).state
    });
    // What isn't in the map is found only because it listens there, be it the application or not.
    if state == Some(LISTEN) && !maps::is_unmapped(steered) {
        return Verdict::pass(Counter::DeliverFound);
    }
    let is_left = state.is_some_and(|state| state != LISTEN);
    let Some(target) = maps::target(steered) else {
        return Verdict::pass(Counter::DeliverNoTarget);
    };
    let to_target = from_nobody(&Tuple::new(segment.tuple.source(), target));
    let assigned = with_socket(ctx, version, &to_target, HERE, |socket| {
        // SAFETY: `socket` is the reference that the lookup just took.
        maps::remember_app(steered, socket)
            || is_left
            || unsafe { bpf_sk_assign(ctx.skb.skb.cast(), socket.cast(), 0) } == 0
    });
    Verdict::pass(match assigned {
        None => Counter::DeliverNoListener,
        Some(true) => Counter::DeliverAssigned,
        Some(false) => Counter::DeliverFailed,
    })
}

/// An application that is bound to a loopback address hears no steer address by itself. `dispatch` finds its
/// socket then. Assigned to the datagram right here, it would be lost on its way through netfilter's NAT, which
/// takes an unconnected socket for one of another port.
#[inline(always)]
fn datagram(ctx: &TcContext, version: Version, tuple: &Tuple) -> Verdict {
    let steered = &tuple.destination();
    let Some(aim) = maps::aim(steered) else {
        return Verdict::FOREIGN;
    };
    if !maps::is_steer(&steered.addr()) || maps::finds_datagram_app(aim.app(), steered) {
        return Verdict::FOREIGN;
    }
    if hears(ctx, version, tuple, |_| ()).is_some() {
        maps::note_hearing(steered);
        return Verdict::FOREIGN;
    }
    let Some(target) = maps::target(steered) else {
        return Verdict::FOREIGN;
    };
    let to_target = Tuple::new(tuple.source(), target);
    // Whatever comes of it, the stack answers where nobody hears.
    hears(ctx, version, &to_target, |socket| {
        if !maps::remember_datagram_app(aim.app(), socket) {
            // SAFETY: `socket` is the reference that the lookup just took.
            unsafe { bpf_sk_assign(ctx.skb.skb.cast(), socket.cast(), 0) };
        }
    });
    Verdict::FOREIGN
}
