//! Whom a balancer's socket speaks for, where only its first datagram has a header.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use proxy_common::{
    Counter,
    datagram::{Flow, Receiver},
    first::{First, Speaker},
};

use super::way;
use crate::{
    clock,
    ctx::{self, Version},
    maps::{self, Scratch},
    verdict::{Action, Verdict},
};

/// Whether a datagram came by the way that leads to its balancer.
#[derive(Clone, Copy)]
pub enum Came<'a> {
    ItsWay,
    /// It is to be asked once that matters.
    Unasked(&'a TcContext, Version),
}

impl Came<'_> {
    #[inline(always)]
    fn is_balancers(self, scratch: &mut Scratch) -> Result<(), Verdict> {
        match self {
            Self::ItsWay => Ok(()),
            Self::Unasked(ctx, version) => is_balancers(ctx, version, scratch),
        }
    }
}

/// Whether an earlier datagram of the balancer's socket has said whom it speaks for: then this one is
/// payload from its beginning on, whatever it looks like. Otherwise `scratch.is_named` tells whether that one may be
/// yet to come.
#[inline(always)]
pub fn speaks_for(
    ctx: &TcContext,
    came: Came<'_>,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<bool, Verdict> {
    if !maps::has(receiver, Receiver::V2_FIRST) {
        return Ok(false);
    }
    let now = clock::seconds();
    scratch.speaker = Speaker::new(&scratch.segment.tuple, ctx::device(ctx));
    scratch.is_named = false;
    scratch.proxy.len = 0;
    let Some(first) = find(came, scratch, receiver, now)? else {
        return Ok(false);
    };
    if first.is_undecided() {
        return Err(Verdict::pass(Counter::DatagramToDaemonHeader));
    }
    if first.last != now {
        came.is_balancers(scratch)?;
        maps::insert_first(scratch, &first.heard(now), receiver.close_after());
    }
    if first.is_in_pieces(now) {
        scratch.named = first.client();
        scratch.is_named = true;
        return Ok(false);
    }
    scratch.proxy.source = first.client();
    Ok(true)
}

/// Whether the header is that of the datagram that has named the client. It may be his own otherwise.
#[inline(always)]
pub fn counts(scratch: &Scratch, receiver: &Receiver) -> Result<(), Verdict> {
    let is_v2_first = maps::has(receiver, Receiver::V2_FIRST);
    if is_v2_first && scratch.is_named && scratch.named != scratch.proxy.source {
        return Err(Verdict::pass(Counter::DatagramToDaemonHeader));
    }
    Ok(())
}

/// What is known of the balancer's socket, if it hasn't been silent for too long. Nobody can tell whose payload
/// it is if that was forgotten sooner, and what looks like a header may be his.
#[inline(always)]
fn find(
    came: Came<'_>,
    scratch: &mut Scratch,
    receiver: &Receiver,
    now: u32,
) -> Result<Option<First>, Verdict> {
    let close_after = receiver.close_after();
    let Some(first) = maps::find_first(scratch) else {
        if maps::has_spoken(now) != 0 {
            if came.is_balancers(scratch).is_ok() {
                maps::note_spoken(now, close_after);
            }
            return Err(Verdict::drop(Counter::DatagramForgotten));
        }
        return Ok(None);
    };
    Ok((!first.is_over(now, close_after)).then_some(first))
}

/// Whether nobody can tell any more whom the balancer's socket speaks for, which a piece came from by its way.
#[inline(always)]
pub fn is_forgotten(ctx: &TcContext, scratch: &mut Scratch, receiver: &Receiver) -> bool {
    if !maps::has(receiver, Receiver::V2_FIRST) {
        return false;
    }
    scratch.speaker = Speaker::new(&scratch.segment.tuple, ctx::device(ctx));
    find(Came::ItsWay, scratch, receiver, clock::seconds()).is_err()
}

/// Has the balancer's socket go on speaking for a client who is answered.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn answered(flow: &Flow, scratch: &mut Scratch, now: u32) {
    let link = flow.way_back.link().unwrap_or(0);
    scratch.speaker = Speaker::new(&flow.back.reversed(), link);
    let close_after = flow.close_after.into();
    match maps::find_first(scratch) {
        Some(first) => {
            let is_his = first.client() == scratch.segment.tuple.destination();
            if is_his && !first.is_undecided() && first.last != now {
                maps::insert_first(scratch, &first.heard(now), close_after);
            }
        }
        // It speaks for whom was forgotten too soon, or else for itself.
        None if maps::has_spoken(now) != 0 => {
            maps::note_spoken(now, close_after);
        }
        None => {}
    }
}

/// The daemon may take its time. Without this, a client who can have his first datagram go there could have a
/// header of his own taken for the first one meanwhile.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn leave(ctx: &TcContext, version: Version, scratch: &mut Scratch, receiver: &Receiver) {
    let came = Came::Unasked(ctx, version);
    if !matches!(find(came, scratch, receiver, clock::seconds()), Ok(None)) {
        return;
    }
    match is_balancers(ctx, version, scratch) {
        // Its header was read.
        Ok(()) if scratch.proxy.len > 0 => name(scratch, receiver),
        Err(verdict) if verdict.action == Action::Drop => {}
        _ => leave_undecided(scratch, receiver),
    }
}

/// Unless another CPU has heard whom it speaks for meanwhile.
#[inline(always)]
pub fn leave_undecided(scratch: &Scratch, receiver: &Receiver) {
    let first = First::undecided(clock::seconds());
    maps::insert_first_of_none(scratch, &first, receiver.close_after());
}

#[inline(always)]
pub fn remember(scratch: &Scratch, receiver: &Receiver) {
    let first = First::said(scratch.proxy.source, clock::seconds());
    maps::insert_first(scratch, &first, receiver.close_after());
}

/// Names the client of a datagram that takes a longer way: it may be yet to be put together, or to be taken apart, and
/// its header is still to come.
#[inline(always)]
pub fn name(scratch: &Scratch, receiver: &Receiver) {
    let first = First::in_pieces(scratch.proxy.source, clock::seconds());
    maps::insert_first(scratch, &first, receiver.close_after());
}

/// The same before several datagrams are taken apart, of which the first one has the header.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn name_of_many(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<(), Verdict> {
    if maps::has(receiver, Receiver::V2_FIRST) && !scratch.is_named {
        is_balancers(ctx, version, scratch)?;
        name(scratch, receiver);
    }
    Ok(())
}

/// Whether the datagram came by the way that leads to its balancer. Without that, it says nothing in his name.
#[inline(always)]
pub fn is_balancers(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
) -> Result<(), Verdict> {
    const ITS: u32 = way::Came::Right as u32;
    const SOME: u32 = way::Came::Unknown as u32;
    let came = match came_once(ctx.skb.skb, version == Version::V4) {
        ITS => way::Came::Right,
        SOME => way::Came::Unknown,
        _ => way::Came::Wrong,
    };
    came.verdict(scratch.segment.tuple.addresses()[0])
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "came")]
#[inline(never)]
extern "C" fn came_once(skb: *mut __sk_buff, is_v4: bool) -> u32 {
    let Some(scratch) = maps::scratch() else {
        return way::Came::Wrong as u32;
    };
    scratch.datagram_flow = Flow {
        back: scratch.segment.tuple.reversed(),
        ..Flow::default()
    };
    let (ctx, version) = (&TcContext::new(skb), Version::if_v4(is_v4));
    way::came(ctx, version, &mut scratch.datagram_flow, clock::seconds()) as u32
}

/// Whether a datagram is dropped for what its header says, or for how many there are.
#[inline(always)]
pub fn is_refusal(why: Counter) -> bool {
    use Counter::{
        DatagramClientFull, DatagramDenied, DatagramDrained, DatagramFailed, DatagramFull,
        DatagramTaken, DatagramTooFast, InjectNoRoute,
    };
    matches!(
        why,
        DatagramClientFull
            | DatagramDenied
            | DatagramDrained
            | DatagramFailed
            | DatagramFull
            | DatagramTaken
            | DatagramTooFast
            | InjectNoRoute
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
    if is_balancers(ctx, version, scratch).is_ok() {
        remember(scratch, receiver);
    }
}
