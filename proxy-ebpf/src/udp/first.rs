//! Whom a balancer's socket speaks for, where only its first datagram has a header.

use aya_ebpf::programs::TcContext;
use proxy_common::{
    Counter,
    datagram::{Flow, Receiver},
    first::First,
    flow::Tuple,
};

use super::way;
use crate::{
    clock,
    ctx::Version,
    maps::{self, Scratch},
    verdict::Verdict,
};

/// Whether an earlier datagram of the balancer's socket has said whom it speaks for: then this one is
/// payload from its beginning on, whatever it looks like.
#[inline(always)]
pub fn speaks_for(scratch: &mut Scratch, receiver: &Receiver) -> Result<bool, Verdict> {
    if !maps::has(receiver, Receiver::V2_FIRST) {
        return Ok(false);
    }
    let now = clock::seconds();
    let Some(first) = find(&scratch.segment.tuple, receiver, now)? else {
        return Ok(false);
    };
    if !first.is_undecided() {
        note_heard(&scratch.segment.tuple, first, now, receiver.close_after());
    }
    if first.is_undecided() || first.is_in_pieces(now) {
        return Err(Verdict::pass(Counter::DatagramToDaemonHeader));
    }
    scratch.proxy.source = first.client();
    scratch.proxy.len = 0;
    Ok(true)
}

/// Once a second.
#[inline(always)]
fn note_heard(datagram: &Tuple, first: First, now: u32, close_after: u32) {
    if first.last != now {
        maps::insert_first(datagram, &first.heard(now), close_after);
    }
}

/// What is known of the balancer's socket, if it hasn't been silent for too long. Nobody can tell whose payload
/// it is if that was forgotten sooner, and what looks like a header may be his.
#[inline(always)]
pub fn find(datagram: &Tuple, receiver: &Receiver, now: u32) -> Result<Option<First>, Verdict> {
    let close_after = receiver.close_after();
    let Some(first) = maps::find_first(datagram) else {
        if maps::has(receiver, Receiver::V2_FIRST) && maps::has_spoken(datagram, now) {
            maps::note_spoken(datagram, now, close_after);
            return Err(Verdict::drop(Counter::DatagramForgotten));
        }
        return Ok(None);
    };
    Ok((!first.is_over(now, close_after)).then_some(first))
}

/// Has the balancer's socket go on speaking for a client who is answered.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn answered(flow: &Flow, reply: &Tuple, now: u32) {
    let datagram = flow.back.reversed();
    let close_after = flow.close_after.into();
    match maps::find_first(&datagram) {
        Some(first) if first.is_undecided() || first.client() != reply.destination() => {}
        Some(first) => note_heard(&datagram, first, now, close_after),
        // It speaks for whom was forgotten too soon, or else for itself.
        None if maps::has_spoken(&datagram, now) => {
            maps::note_spoken(&datagram, now, close_after);
        }
        None => {}
    }
}

/// The daemon may take its time. Without this, a client who can have his first datagram go there could have a
/// header of his own taken for the first one meanwhile.
#[inline(always)]
pub fn leave_undecided(datagram: &Tuple, receiver: &Receiver) {
    if !maps::has(receiver, Receiver::V2_FIRST) {
        return;
    }
    let now = clock::seconds();
    if matches!(find(datagram, receiver, now), Ok(None)) {
        maps::insert_first(datagram, &First::undecided(now), receiver.close_after());
    }
}

#[inline(always)]
pub fn remember(scratch: &Scratch, receiver: &Receiver) {
    let first = First::said(scratch.proxy.source, clock::seconds());
    maps::insert_first(&scratch.segment.tuple, &first, receiver.close_after());
}

/// A first datagram's first piece says for whom, whatever becomes of the others.
#[inline(always)]
pub fn remember_in_pieces(scratch: &Scratch, receiver: &Receiver) {
    let first = First::in_pieces(scratch.proxy.source, clock::seconds());
    maps::insert_first(&scratch.segment.tuple, &first, receiver.close_after());
}

/// Whether a datagram is dropped for what its header says, or for how many there are.
#[inline(always)]
pub fn is_refusal(why: Counter) -> bool {
    use Counter::{DatagramDenied, DatagramFailed, DatagramFull, DatagramTaken, InjectNoRoute};
    matches!(
        why,
        DatagramDenied | DatagramFailed | DatagramFull | DatagramTaken | InjectNoRoute
    )
}

/// No other header counts for that: it would be the client's own.
#[inline(never)]
pub fn remember_refused(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
) {
    let back = scratch.segment.tuple.reversed();
    scratch.datagram_flow = Flow {
        back,
        ..Flow::default()
    };
    if way::is_balancers(ctx, version, &mut scratch.datagram_flow, clock::seconds()).is_ok() {
        remember(scratch, receiver);
    }
}
