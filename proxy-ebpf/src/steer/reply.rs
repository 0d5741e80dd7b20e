//! The way back: what an application sends to a client leaves for the balancer, if the connection is
//! direct, or for the spoof namespace, instead of the network.
//!
//! An application on this host answers from a steer address, which tells its packets on the egress
//! of every device but `lo` and our own. One elsewhere answers from its own address, through this
//! host: its packets are told on ingress, by the spoofed connection that they belong to.

use aya_ebpf::programs::TcContext;
use proxy_common::{Counter, VETH_MAC};

use super::neighbour;
use crate::{
    ctx::{self, Link, Unreadable, Version},
    direct::down,
    lookup::socket::with_socket,
    maps,
    verdict::{Action, Verdict},
    wire::{
        self,
        segment::{self, Kind},
    },
};

#[inline(always)]
pub fn reply(ctx: &TcContext, link: Link) -> Verdict {
    let Some(version) = ctx::version(ctx) else {
        return if link.is_ethernet() && ctx::is_arp(ctx) {
            neighbour::asked(ctx)
        } else {
            Verdict::FOREIGN
        };
    };
    match wire::source(ctx, version, link) {
        Ok(source) if maps::is_steer(&source) => from_app(ctx, link, version),
        Ok(_) if is_renamed(ctx, version, link) => Verdict::drop(Counter::ReplyRenamed),
        Ok(_) | Err(Unreadable) => Verdict::FOREIGN,
    }
}

/// Whether it is an application's, whose steer address a masquerade has just replaced: with nat, conntrack
/// may take an open connection for one that begins with the application's packet. What `down` has sent this
/// way is its balancer's by now.
#[inline(always)]
fn is_renamed(ctx: &TcContext, version: Version, link: Link) -> bool {
    let Some([own, peer]) = ctx::socket_addresses(ctx, version) else {
        return false;
    };
    if !maps::is_steer(&own) || wire::destination(ctx, version, link).is_ok_and(|to| to != peer) {
        return false;
    }
    let Some(scratch) = maps::scratch() else {
        return true;
    };
    let segment = &mut scratch.segment;
    // A balancer may well say that it is the client itself.
    segment::read(ctx, version, link, segment) != Kind::Tcp
        || maps::find_up(&segment.tuple.reversed()).is_none()
}

#[inline(always)]
fn from_app(ctx: &TcContext, link: Link, version: Version) -> Verdict {
    match down::down(ctx, version, link) {
        Ok(Some(verdict)) | Err(verdict) => verdict,
        Ok(None) => steer(ctx, link, version, Counter::ReplySteered),
    }
}

/// What leaves by our own device: steered here, or led by the default route that it may have.
#[inline(always)]
pub fn reply_own(ctx: &TcContext) -> Verdict {
    if ctx::mark(ctx) == maps::mark() {
        ctx.set_mark(0);
        return Verdict::FOREIGN;
    }
    own(ctx, reply(ctx, Link::ETHERNET))
}

/// What becomes by our own device of a packet that would leave by it.
#[inline(always)]
pub fn own(ctx: &TcContext, verdict: Verdict) -> Verdict {
    if verdict.action != Action::Out {
        return verdict;
    }
    // It is on its way out there.
    ctx.set_mark(0);
    Verdict::FOREIGN
}

#[inline(always)]
pub fn reply_remote(ctx: &TcContext, link: Link) -> Verdict {
    let (Some(version), Some(scratch)) = (ctx::version(ctx), maps::scratch()) else {
        return Verdict::FOREIGN;
    };
    let segment = &mut scratch.segment;
    if segment::read(ctx, version, link, segment) != Kind::Tcp {
        return Verdict::FOREIGN;
    }
    if !maps::is_remote(&segment.tuple.source()) {
        return Verdict::FOREIGN;
    }
    // Nothing listens in the spoof namespace, so whatever is found is a spoofed connection, also
    // one in TIME_WAIT.
    match with_socket(ctx, version, &segment.tuple, maps::spoof_netns(), |_| ()) {
        Some(()) => steer(ctx, link, version, Counter::ReplySteered),
        None => Verdict::FOREIGN,
    }
}

/// To the spoof namespace.
#[inline(always)]
pub fn steer(ctx: &TcContext, link: Link, version: Version, why: Counter) -> Verdict {
    let addressed = if link.is_ethernet() {
        ctx::set_macs(ctx, VETH_MAC)
    } else {
        ctx::add_ethernet(ctx, version)
    };
    if addressed.is_err() {
        return Verdict::drop(Counter::ReplyFailed);
    }
    ctx.set_mark(maps::mark());
    Verdict::to(Action::Out, maps::device(), why)
}
