//! Datagrams from the balancer to the application, and its replies back: addresses and ports are
//! rewritten, and headers cut out and put in front.

mod admission;
mod beyond;
pub mod catch;
mod error;
mod first;
pub mod heard;
mod inbound;
mod known;
mod limits;
mod orphan;
mod outbound;
mod place;
pub mod source;
mod way;

use aya_ebpf::programs::TcContext;
use proxy_common::Counter;

pub use inbound::inbound;
pub use outbound::{outbound, outbound_own};
pub use place::place_daemons;

use crate::{ctx::Unreadable, lookup::route, maps, verdict::Verdict};

/// Whether the program was left behind by a daemon that was killed. The steer addresses' device has gone with
/// that one; nothing is for the program to drop then, but what comes from such an address.
#[inline(always)]
fn is_left(ctx: &TcContext) -> bool {
    maps::may_be_left() && !route::is_there(ctx, maps::device())
}

/// The kernel has no memory, or the packet is shorter than it says: a datagram may be lost.
fn failed(Unreadable: Unreadable) -> Verdict {
    Verdict::drop(Counter::DatagramFailed)
}
