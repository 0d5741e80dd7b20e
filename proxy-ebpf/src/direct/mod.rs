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
pub mod sweep;
mod syn;
mod up;

use aya_ebpf::programs::TcContext;
use proxy_common::{Counter, LO, LO_MAC, VETH_MAC};

use crate::{
    ctx::{self, Link, Unreadable, Version},
    maps::{self, Scratch},
    wire::segment::{self, Kind},
};

pub use syn::refuse;

pub enum Verdict {
    /// None of ours, or the stack's to answer.
    Foreign,
    /// To the daemon's listener, or to the stack in its place.
    ToDaemon(Counter),
    /// An answer to the balancer, out by this device.
    Answer { out: answer::Out, why: Counter },
    /// In by this device, to the application.
    ToApp { device: u32, what: Counter },
    /// Nothing is to be done with it.
    Done(Counter),
}

/// The kernel has no memory, or the packet is shorter than it says: TCP sends it again.
pub struct Failed;

impl From<Unreadable> for Failed {
    fn from(Unreadable: Unreadable) -> Self {
        Self
    }
}

/// A packet that comes in.
#[inline(always)]
pub fn direct(ctx: &TcContext, link: Link) -> Result<Verdict, Failed> {
    if !ctx::is_for_host(ctx) {
        return Ok(Verdict::Foreign);
    }
    let Some(version) = ctx::version(ctx) else {
        return Ok(Verdict::Foreign);
    };
    let scratch = maps::scratch().ok_or(Failed)?;
    match segment::read(ctx, version, link, &mut scratch.segment) {
        Kind::Other => fragment::fragment(ctx, version, link),
        Kind::Icmp => up::icmp(ctx, version, link),
        Kind::Tcp if !maps::is_served(u16::from_be(scratch.segment.tuple.ports()[1])) => {
            Ok(Verdict::Foreign)
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
) -> Result<Verdict, Failed> {
    let outcome = up::up(ctx, version, link, &scratch.segment)?;
    let is_again = matches!(outcome, up::Outcome::Again);
    let verdict = match outcome {
        up::Outcome::Done(verdict) => verdict,
        up::Outcome::NoFlow if scratch.segment.is_first() => syn::syn(ctx, version, link, scratch)?,
        up::Outcome::NoFlow | up::Outcome::Again => {
            first::first(ctx, version, link, scratch, is_again)?
        }
    };
    if let Verdict::ToDaemon(_) = verdict {
        maps::note_given(&scratch.segment.tuple);
    }
    Ok(verdict)
}

/// Makes a segment ready for where it enters the host on its way to an application: the device. At the
/// veth the mark tells it from what comes out of the spoof namespace.
#[inline(always)]
fn to_entrance(ctx: &TcContext) -> Result<u32, Unreadable> {
    if maps::via_lo() {
        ctx::set_macs(ctx, LO_MAC)?;
        return Ok(LO);
    }
    ctx::set_macs(ctx, VETH_MAC)?;
    ctx.set_mark(maps::mark());
    Ok(maps::device())
}
