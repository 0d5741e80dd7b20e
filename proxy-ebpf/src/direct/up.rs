//! From the balancer to the application, once there is a flow.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{
    Counter,
    flow::{Tuple, Up},
};

use super::{FAILED, sweep};
use crate::{
    ctx::{self, Link, Version},
    enter::enter,
    lookup::socket::{Presence, presence},
    maps,
    verdict::Verdict,
    wire::{icmp, rewrite, segment::Segment},
};

pub enum Outcome {
    Done(Verdict),
    /// There is none, or no more.
    NoFlow,
    /// There was one that never had a socket, of this very segment.
    Again,
}

#[inline(always)]
pub fn up(
    ctx: &TcContext,
    version: Version,
    link: Link,
    segment: &Segment,
) -> Result<Outcome, Verdict> {
    let Some(flow) = maps::find_up(&segment.tuple) else {
        return Ok(Outcome::NoFlow);
    };
    // SAFETY: the element is written before it is in the map, but for one word. After its
    // removal, seconds after the socket's end, it may become another flow's: then this segment, of no
    // connection any more, is one that the other's socket throws away.
    let flow: &Up = unsafe { &*flow };
    // SAFETY: a plain load of one word.
    let is_confirmed = unsafe { (&raw const flow.confirmed).read_volatile() } != 0;
    let is_same = !is_confirmed && segment.seq == flow.first && segment.payload > 0;
    if is_same || segment.is_first() {
        let presence = presence(ctx, version, &flow.rewrite.to);
        let is_over = presence != Presence::There;
        let is_again =
            is_same && presence == Presence::Gone && !was_there(&flow.rewrite.to.reversed());
        if is_again || segment.is_first() && is_over {
            // A connection that is over, or never came to be.
            if !sweep::forget(&segment.tuple, &flow.rewrite.to.reversed(), presence) {
                return Err(FAILED);
            }
            if is_again {
                maps::count(Counter::DirectAgain);
                return Ok(Outcome::Again);
            }
            return Ok(Outcome::NoFlow);
        }
        // What follows the first one in the same flight goes the same way, also before the socket is
        // there: at worst the stack answers it, which `down` takes out.
    }
    ctx::ensure_ethernet(ctx, link, version)?;
    rewrite::apply(ctx, version, segment.at, &flow.rewrite)?;
    Ok(Outcome::Done(enter(ctx, Counter::DirectUp)?))
}

/// Looked at after the socket: it may have been made meanwhile.
#[inline(always)]
fn was_there(down: &Tuple) -> bool {
    // SAFETY: what is read is written before the element is in the map, but for bits that are only ever
    // set.
    maps::find_down(down).is_some_and(|flow| sweep::was_there(unsafe { &*flow }))
}

/// A router's word on a segment that went to the balancer is for the application.
#[inline(always)]
pub fn icmp(ctx: &TcContext, version: Version, link: Link) -> Result<Verdict, Verdict> {
    let about = icmp::about(ctx, version, IpProto::Tcp).ok_or(Verdict::FOREIGN)?;
    let flow = maps::find_up(&about.reversed()).ok_or(Verdict::FOREIGN)?;
    // SAFETY: as in `up`.
    let to = unsafe { (*flow).rewrite.to }.reversed();
    ctx::ensure_ethernet(ctx, link, version)?;
    icmp::translate(ctx, version, &about, &to, None)?;
    Ok(enter(ctx, Counter::DirectIcmp)?)
}
