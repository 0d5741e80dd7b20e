//! The direct path: one TCP connection from the balancer to the application.
//!
//! The balancer's SYN is answered here, by a cookie. Its first data segment, less the header and with
//! the client's address, becomes a connection of the application's listener, and from then on only
//! addresses and ports are rewritten: both ends count the same bytes.

pub mod accepted;
pub mod answer;
pub mod down;
mod first;
mod fragment;
mod places;
pub mod sweep;
mod syn;
mod up;

use aya_ebpf::programs::TcContext;
use proxy_common::{Counter, flow::Tuple};

use crate::{
    ctx::{self, Link, Unreadable, Version},
    maps::{self, Scratch},
    verdict::Verdict,
    wire::segment::{self, Kind},
};

pub use syn::refuse;

/// The kernel has no memory, or the packet is shorter than it says: TCP sends it again.
const FAILED: Verdict = Verdict::drop(Counter::DirectFailed);

/// An error here is a verdict as well: `?` leaves with it early.
impl From<Unreadable> for Verdict {
    fn from(Unreadable: Unreadable) -> Self {
        FAILED
    }
}

/// A packet that comes in.
#[inline(always)]
pub fn direct(ctx: &TcContext, link: Link) -> Verdict {
    match incoming(ctx, link) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn incoming(ctx: &TcContext, link: Link) -> Result<Verdict, Verdict> {
    if !ctx::is_for_host(ctx) {
        return Ok(Verdict::FOREIGN);
    }
    let version = ctx::version(ctx).ok_or(Verdict::FOREIGN)?;
    let scratch = maps::scratch().ok_or(FAILED)?;
    match segment::read(ctx, version, link, &mut scratch.segment) {
        Kind::Other => fragment::fragment(ctx, version, link, scratch),
        Kind::Icmp => up::icmp(ctx, version, link),
        Kind::Udp => Ok(Verdict::FOREIGN),
        Kind::Tcp if !maps::is_served(u16::from_be(scratch.segment.tuple.ports()[1])) => {
            Ok(Verdict::FOREIGN)
        }
        Kind::Tcp => tcp(ctx, version, link, scratch),
    }
}

#[inline(always)]
fn tcp(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Verdict, Verdict> {
    let is_again = match up::up(ctx, version, link, &scratch.segment)? {
        up::Outcome::Done(verdict) => return Ok(verdict),
        up::Outcome::NoFlow if scratch.segment.is_first() => {
            return syn::syn(ctx, version, scratch);
        }
        up::Outcome::NoFlow => false,
        up::Outcome::Again => true,
    };
    first::first(ctx, version, link, scratch, is_again)
}

/// The connection is the daemon's.
#[inline(always)]
fn to_daemon(tuple: &Tuple, why: Counter) -> Verdict {
    maps::note_given(tuple);
    Verdict::pass(why)
}
