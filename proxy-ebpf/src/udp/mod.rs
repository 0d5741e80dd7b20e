//! Datagrams from the balancer to the application, and its replies back: addresses and ports are
//! rewritten, and headers cut out and put in front.

mod beyond;
pub mod catch;
mod first;
pub mod heard;
mod inbound;
mod outbound;
mod place;
pub mod source;
mod way;

use proxy_common::Counter;

pub use inbound::inbound;
pub use outbound::{outbound, outbound_own};
pub use place::place_daemons;

use crate::{ctx::Unreadable, verdict::Verdict};

/// The kernel has no memory, or the packet is shorter than it says: a datagram may be lost.
fn failed(Unreadable: Unreadable) -> Verdict {
    Verdict::drop(Counter::DatagramFailed)
}
