//! Whom a balancer's socket speaks for, where only its first datagram has a header.

use aya_ebpf::programs::TcContext;
use proxy_common::{
    Counter,
    datagram::{First, Flow, Receiver},
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
    if first.is_undecided() {
        return Err(Verdict::pass(Counter::DatagramToDaemonHeader));
    }
    if first.last != now {
        first.last = now;
        maps::note_spoken(&scratch.segment.tuple, now);
    }
    scratch.proxy.source = first.client;
    scratch.proxy.len = 0;
    Ok(true)
}

/// What is known of the balancer's socket, if it hasn't been silent for too long. Nobody can tell whose payload
/// it is if that was forgotten sooner, and what looks like a header may be his.
#[inline(always)]
pub fn find(
    datagram: &Tuple,
    receiver: &Receiver,
    now: u32,
) -> Result<Option<&'static mut First>, Verdict> {
    let close_after = receiver.close_after();
    let Some(first) = maps::find_first(datagram) else {
        if maps::has(receiver, Receiver::V2_FIRST) && maps::has_spoken(datagram, now, close_after) {
            maps::note_spoken(datagram, now);
            return Err(Verdict::drop(Counter::DatagramForgotten));
        }
        return Ok(None);
    };
    // SAFETY: its last time is one word, which only becomes a later one; the others are written before the
    // element is in the map.
    let first = unsafe { &mut *first };
    Ok((!first.is_over(now, close_after)).then_some(first))
}

/// Has the balancer's socket go on speaking for a client who is answered.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn answered(flow: &Flow, reply: &Tuple, now: u32) {
    let datagram = flow.back.reversed();
    let speaks = match maps::find_first(&datagram) {
        Some(first) => {
            // SAFETY: as in `find`.
            let first = unsafe { &mut *first };
            let speaks = first.client == reply.destination();
            if speaks {
                first.last = now;
            }
            speaks
        }
        // It speaks for itself, or for whom was forgotten too soon.
        None => maps::has_spoken(&datagram, now, flow.close_after.into()),
    };
    if speaks {
        maps::note_spoken(&datagram, now);
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
    if !matches!(find(datagram, receiver, now), Ok(None)) {
        return;
    }
    let undecided = First {
        last: now,
        ..First::default()
    };
    maps::insert_first(datagram, &undecided);
}

#[inline(always)]
pub fn remember(scratch: &Scratch) {
    let first = First {
        client: scratch.proxy.source,
        last: clock::seconds(),
    };
    maps::insert_first(&scratch.segment.tuple, &first);
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
pub fn remember_refused(ctx: &TcContext, version: Version, scratch: &mut Scratch) {
    let back = scratch.segment.tuple.reversed();
    scratch.datagram_flow = Flow {
        back,
        ..Flow::default()
    };
    if way::is_balancers(ctx, version, &mut scratch.datagram_flow, clock::seconds()).is_ok() {
        remember(scratch);
    }
}
