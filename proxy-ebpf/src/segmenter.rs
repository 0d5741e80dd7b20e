//! Several datagrams that the kernel handles as one (UDP_SEGMENT, GRO), where each has a header to be taken off or
//! to be given. They leave by `lo` once, with two VLAN tags: no device's offloads work behind more than one, so that
//! the kernel takes them apart, and they come in there one by one. The tags say where they go on, too.

use aya_ebpf::programs::TcContext;
use proxy_common::{Counter, LO};

use crate::{
    ctx::{self, Link, Unreadable, Version},
    maps,
    verdict::{Action, Verdict},
    wire::skb::{self, Summed},
};

/// Where a program sees packets of a device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Ingress,
    Egress,
}

/// Bits of a VLAN's number.
const BITS: u32 = 12;
const MASK: u32 = (1 << BITS) - 1;
/// Of a tag, one of the bits that aren't its number's: the packets go in.
const IN: u32 = 1 << 15;

/// An error is what becomes of them instead. `to_daemon`: what they are counted as where the daemon has to do it.
#[inline(always)]
pub fn take_apart(
    ctx: &TcContext,
    version: Version,
    link: Link,
    hook: Hook,
    to_daemon: Counter,
) -> Result<Verdict, Verdict> {
    let device = ctx::device(ctx);
    // Elsewhere than on `lo`, nobody would take the tags off.
    if !maps::via_lo() || device >> (2 * BITS) != 0 || is_immovable(ctx, hook) {
        return Err(Verdict::pass(to_daemon));
    }
    ctx::ensure_ethernet(ctx, link, version).map_err(failed)?;
    let direction = match hook {
        Hook::Ingress => IN,
        Hook::Egress => 0,
    };
    ctx::push_vlan(ctx, device & MASK).map_err(failed)?;
    ctx::push_vlan(ctx, direction | device >> BITS).map_err(failed)?;
    ctx.set_mark(maps::mark());
    Ok(Verdict::to(Action::Out, LO, Counter::DatagramSegmented))
}

/// Whether the kernel loses sight of where a sum begins when it makes room for tags. An application's own packet for a
/// device that sums nothing (a tun) has a sum to be made, but isn't said to (`udp_send_skb`, since 6.11): where such a
/// packet is copied for want of room, `csum_start` stays what it was, and `__udp_gso_segment` refuses it.
#[inline(always)]
fn is_immovable(ctx: &TcContext, hook: Hook) -> bool {
    hook == Hook::Egress && skb::summed(ctx) == Summed::Whole
}

fn failed(Unreadable: Unreadable) -> Verdict {
    Verdict::drop(Counter::DatagramFailed)
}

/// One of them, at the ingress of `lo`: it goes on where it was.
#[inline(always)]
pub fn put_back(ctx: &TcContext) -> Verdict {
    let (Ok(high), Ok(low)) = (ctx::pop_vlan(ctx), ctx::pop_vlan(ctx)) else {
        return Verdict::drop(Counter::DatagramFailed);
    };
    // It would go round and round.
    if ctx::is_many(ctx) {
        return Verdict::drop(Counter::DatagramFailed);
    }
    let device = (high & MASK) << BITS | low & MASK;
    let action = match high & IN {
        0 => Action::Out,
        _ => Action::In,
    };
    Verdict::to(action, device, Counter::DatagramSegment)
}
