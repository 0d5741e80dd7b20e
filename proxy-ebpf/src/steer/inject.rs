//! Ingress of the veth's host end: a packet from a spoofed client to an application.
//!
//! To one on this host it goes by `lo`, which host firewalls accept. A strict rp_filter on `lo`
//! would drop it there; then it goes on through the veth, and `deliver`'s work is done here. To one
//! that hears by one device alone it goes by that device.
//!
//! To one elsewhere it goes straight to the device that leads there, past ip_forward and the
//! FORWARD chain.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{Addr, Counter, LO};

use super::deliver;
use crate::{
    ctx::{self, Link, Version},
    enter::enter_by,
    lookup::route,
    maps,
    verdict::{Action, Verdict},
    wire::{
        self, fragment,
        segment::{self, Kind},
    },
};

#[inline(always)]
pub fn inject(ctx: &TcContext) -> Verdict {
    if ctx::mark(ctx) == maps::mark() {
        // A packet of a balancer, which was sent in through this device.
        ctx.set_mark(0);
        return match ctx::version(ctx) {
            Some(version) if maps::any_is_receiving() => deliver::to_app(ctx, version),
            _ => Verdict::FOREIGN,
        };
    }
    let Some(version) = ctx::version(ctx) else {
        return Verdict::drop(Counter::InjectStray);
    };
    let Ok(destination) = wire::destination(ctx, version, Link::ETHERNET) else {
        return Verdict::drop(Counter::InjectStray);
    };
    if !maps::is_steer(&destination) && !is_datagram(ctx, version, &destination) {
        return beyond(ctx, version);
    }
    let device = match bound(ctx, version) {
        Some(device) => device,
        None if maps::via_lo() => LO,
        None => {
            maps::count(Counter::InjectSteered);
            return deliver::to_app(ctx, version);
        }
    };
    let entered = enter_by(ctx, device, Counter::InjectSteered);
    entered.unwrap_or(Verdict::drop(Counter::InjectFailed))
}

/// Whether it is one, or a piece of one, for an application that is sent to by its own address.
#[inline(always)]
fn is_datagram(ctx: &TcContext, version: Version, destination: &Addr) -> bool {
    if !maps::any_is_receiving() {
        return false;
    }
    let Some(scratch) = maps::scratch() else {
        return false;
    };
    let segment = &mut scratch.segment;
    match segment::read(ctx, version, Link::ETHERNET, segment) {
        Kind::Udp => maps::is_aim(&segment.tuple.destination()),
        Kind::Other => {
            maps::is_target_address(*destination)
                && fragment::read(ctx, version, IpProto::Udp).is_some()
        }
        Kind::Icmp | Kind::Tcp => false,
    }
}

/// The device by which alone the application hears.
#[inline(always)]
fn bound(ctx: &TcContext, version: Version) -> Option<u32> {
    if !maps::any_is_bound() {
        return None;
    }
    let segment = &mut maps::scratch()?.segment;
    match segment::read(ctx, version, Link::ETHERNET, segment) {
        Kind::Tcp | Kind::Udp => maps::bound_to(&segment.tuple.destination()),
        Kind::Other => maps::bound_to(&fragment::datagram(ctx, version)?.destination()),
        Kind::Icmp => None,
    }
}

#[inline(always)]
fn beyond(ctx: &TcContext, version: Version) -> Verdict {
    let Some(scratch) = maps::scratch() else {
        return Verdict::drop(Counter::InjectStray);
    };
    let segment = &mut scratch.segment;
    let kind = segment::read(ctx, version, Link::ETHERNET, segment);
    if kind != Kind::Tcp || !maps::is_remote(&segment.tuple.destination()) {
        return Verdict::drop(Counter::InjectStray);
    }
    match route::way(ctx, version, &segment.tuple, IpProto::Tcp) {
        Some(way) => Verdict::to(Action::ByRoute, way.device, Counter::InjectForwarded),
        None => Verdict::drop(Counter::InjectNoRoute),
    }
}
