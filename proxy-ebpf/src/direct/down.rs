//! From the application to the balancer.

use core::ptr;

use aya_ebpf::{helpers::bpf_sk_fullsock, programs::TcContext};
use network_types::ip::IpProto;
use proxy_common::{
    Counter,
    flow::{Down, flag},
};

use super::FAILED;
use crate::{
    clock,
    ctx::{self, Link, Version},
    lookup::route,
    maps,
    verdict::{Action, Verdict},
    wire::{
        icmp, rewrite,
        segment::{self, Kind, Segment},
    },
};

/// A packet that leaves a steer address; none: it is of no direct connection.
#[inline(always)]
pub fn down(ctx: &TcContext, version: Version, link: Link) -> Result<Option<Verdict>, Verdict> {
    let scratch = maps::scratch().ok_or(FAILED)?;
    let segment = &mut scratch.segment;
    match segment::read(ctx, version, link, segment) {
        Kind::Tcp => tcp(ctx, version, link, segment),
        Kind::Icmp => error(ctx, version, link),
        Kind::Udp | Kind::Other => Ok(None),
    }
}

#[inline(always)]
fn tcp(
    ctx: &TcContext,
    version: Version,
    link: Link,
    segment: &Segment,
) -> Result<Option<Verdict>, Verdict> {
    let Some(flow) = maps::find_down(&segment.tuple) else {
        return Ok(None);
    };
    // SAFETY: `rewrite` is written before the element is in the map. What else is written here, is
    // written under the lock of the one socket that sends from this tuple; its late segments (of
    // TIME_WAIT, or resets) change no numbers. The sweep writes other fields, and removes the element
    // seconds after the socket's end.
    let flow: &mut Down = unsafe { &mut *flow };
    if flow.flags & flag::CONFIRMED == 0 {
        // A socket's own reset has ACK. This one the stack answers to a segment that came before it.
        if segment.rst() && !segment.acks() {
            return Ok(Some(Verdict::drop(Counter::DirectEarly)));
        }
        confirm(flow);
    }
    account(ctx, segment, flow);
    let device = way(ctx, version, flow).ok_or(FAILED)?;
    let is_on_its_way =
        link.is_ethernet() && device == ctx::device(ctx) && ctx::mac(ctx) == Some(flow.mac);
    ctx::ensure_ethernet(ctx, link, version)?;
    rewrite::apply(ctx, version, segment.at, &flow.rewrite)?;
    Ok(Some(if is_on_its_way {
        Verdict::pass(Counter::DirectDown)
    } else {
        Verdict::to(Action::ByRoute, device, Counter::DirectDown)
    }))
}

/// The application's socket is there.
#[inline(always)]
fn confirm(flow: &mut Down) {
    let balancers = flow.rewrite.to.reversed();
    maps::confirm(&balancers);
    if flow.flags & flag::PENDING != 0 {
        maps::forget_pending(&balancers);
    }
    flow.flags |= flag::CONFIRMED;
}

/// Counts bytes by what the socket says of itself: nobody else's word is taken for it.
#[inline(always)]
fn account(ctx: &TcContext, segment: &Segment, flow: &mut Down) {
    if segment.rst() {
        // Once both have ended, one without ACK is the stack's answer to a late copy.
        if segment.acks() || flow.flags & flag::CLOSED == 0 {
            flow.flags |= flag::RESET;
        }
        return;
    }
    if segment.acks() {
        flow.up = advance(flow.up, segment.ack.wrapping_sub(flow.up_base));
    }
    // What comes behind FIN has a number of its own, but no byte.
    if flow.flags & flag::FIN == 0 {
        let end = segment.seq.wrapping_add(segment.payload);
        flow.down = advance(flow.down, end.wrapping_sub(flow.down_base));
    }
    if segment.fin() {
        flow.flags |= flag::FIN;
        if is_last(ctx) {
            flow.flags |= flag::CLOSED;
        }
    }
}

/// A count of bytes whose lower half has become `low`, unless that is an older one.
#[inline(always)]
const fn advance(count: u64, low: u32) -> u64 {
    let more = low.wrapping_sub(count as u32).cast_signed();
    if more > 0 { count + more as u64 } else { count }
}

/// Whether a FIN is the second one of its connection.
#[inline(always)]
fn is_last(ctx: &TcContext) -> bool {
    /// TCP_LAST_ACK and TCP_CLOSING of linux/tcp_states.h.
    const LAST_ACK: u32 = 9;
    const CLOSING: u32 = 11;
    // SAFETY: the kernel's pointer, which may be null; what is no full socket gives null.
    unsafe {
        let socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let socket = bpf_sk_fullsock(socket);
        !socket.is_null() && matches!((*socket).state, LAST_ACK | CLOSING)
    }
}

/// The device that leads to the balancer, looked up once a second. Where none leads there any more, as
/// while forwarding is off on our own device, it goes on as it was: it is the kernel that sends.
#[inline(always)]
fn way(ctx: &TcContext, version: Version, flow: &mut Down) -> Option<u32> {
    let now = clock::seconds() as u16;
    if flow.routed != now || flow.device == 0 {
        if let Some(way) = route::way(ctx, version, &flow.rewrite.to, IpProto::Tcp) {
            flow.device = way.device;
            flow.mac = way.mac;
        }
        flow.routed = now;
    }
    (flow.device != 0).then_some(flow.device)
}

/// What this host says of a segment that it had for the application is for the balancer.
#[inline(always)]
fn error(ctx: &TcContext, version: Version, link: Link) -> Result<Option<Verdict>, Verdict> {
    if ctx::is_forwarded(ctx) {
        return Ok(None);
    }
    let Some(about) = icmp::about(ctx, version, IpProto::Tcp) else {
        return Ok(None);
    };
    let Some(flow) = maps::find_down(&about.reversed()) else {
        return Ok(None);
    };
    // SAFETY: as in `tcp`.
    let flow: &Down = unsafe { &*ptr::from_ref(&*flow) };
    let to = flow.rewrite.to.reversed();
    let way = route::way(ctx, version, &flow.rewrite.to, IpProto::Tcp).ok_or(FAILED)?;
    let [_, service] = to.addresses();
    ctx::ensure_ethernet(ctx, link, version)?;
    icmp::translate(ctx, version, &about, &to, Some(service))?;
    Ok(Some(Verdict::to(
        Action::ByRoute,
        way.device,
        Counter::DirectIcmp,
    )))
}
