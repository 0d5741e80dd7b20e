//! By which devices datagrams come and go.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{
    Addr, Counter,
    datagram::{Flow, ReversePath, Way},
    flow::Tuple,
};

use crate::{
    ctx::{self, Version},
    lookup::route,
    maps::{self, Scratch},
    verdict::Verdict,
    wire::plain_offset,
};

/// The way of packets of this tuple is asked for once a second. False: there is none.
#[inline(always)]
pub fn know(ctx: &TcContext, version: Version, tuple: &Tuple, way: &mut Way, now: u32) -> bool {
    if way.found != now && !way.is_of_link() {
        *way = match route::way(ctx, version, tuple, IpProto::Udp) {
            Some(found) => Way {
                device: found.device,
                mtu: found.mtu.min(u16::MAX.into()) as u16,
                mac: found.mac,
                found: now,
            },
            None => Way {
                found: now,
                ..Way::default()
            },
        };
    }
    way.device != 0
}

/// Whether a packet of so many bytes goes this way in one piece. What a route says of its own the kernel doesn't tell,
/// so whatever may be too long for any of the host's routes is taken for too long.
#[inline(always)]
pub fn takes(version: Version, way: &Way, length: u32) -> bool {
    length <= way.mtu.into() && length <= maps::least_mtu(version == Version::V6)
}

/// Of the packet of this version that a datagram becomes, or of each one that it is made of; with nothing between the
/// fixed header of IP and UDP's.
#[inline(always)]
pub fn length(ctx: &TcContext, to: Version, scratch: &Scratch) -> u32 {
    let payload = match ctx::many_of(ctx) {
        0 => scratch.segment.payload,
        each => each,
    };
    plain_offset(to) as u32 + scratch.segment.len + payload
}

/// Whether the packet at hand came by the device that packets of this tuple would leave by.
#[inline(always)]
pub fn came_by(ctx: &TcContext, version: Version, tuple: &Tuple, way: &mut Way, now: u32) -> bool {
    know(ctx, version, tuple, way, now) && way.device == ctx::device(ctx)
}

/// Whether a balancer whose address means something on one link alone is behind this device.
#[inline(always)]
pub fn is_behind(way: &Way, device: u32) -> bool {
    way.link() == Some(device)
}

/// Which way a packet came: by the device that leads to its balancer, or by another one.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Came {
    Wrong,
    Right,
    /// The daemon has yet to say whether another route goes there.
    Unknown,
}

impl Came {
    #[inline(always)]
    pub fn verdict(self, balancer: &Addr) -> Result<(), Verdict> {
        match self {
            Self::Right => Ok(()),
            Self::Unknown => Err(if_foreign(balancer, Counter::DatagramToDaemonRoute)),
            Self::Wrong => Err(Verdict::drop(Counter::DatagramReversePath)),
        }
    }
}

/// By any other device than the one that leads to its balancer, anybody on that link could speak in the balancer's
/// name: then the daemon asks whether another route goes there.
#[inline(always)]
pub fn came(ctx: &TcContext, version: Version, flow: &mut Flow, now: u32) -> Came {
    if flow.back.addresses()[1].is_of_link() {
        return match came_by_link(ctx, flow, now) {
            true => Came::Right,
            false => Came::Wrong,
        };
    }
    if came_by(ctx, version, &flow.back, &mut flow.way_back, now) {
        return Came::Right;
    }
    let path = ReversePath {
        balancer: flow.back.destination().addr(),
        device: ctx::device(ctx),
    };
    match maps::leads(&path, now) {
        Some(true) => Came::Right,
        Some(false) => Came::Wrong,
        None => Came::Unknown,
    }
}

#[inline(always)]
pub fn is_balancers(
    ctx: &TcContext,
    version: Version,
    flow: &mut Flow,
    now: u32,
) -> Result<(), Verdict> {
    came(ctx, version, flow, now).verdict(flow.back.addresses()[1])
}

/// The same of a balancer whose address means something on one link alone: by that it is answered. Behind another
/// link is somebody else, who doesn't get its flow.
#[inline(always)]
fn came_by_link(ctx: &TcContext, flow: &mut Flow, now: u32) -> bool {
    let device = ctx::device(ctx);
    let is_same = is_behind(&flow.way_back, device);
    let is_others = !is_same && flow.way_back.device != 0 && flow.is_spoken_for(now);
    if !is_same && !is_others {
        flow.way_back = Way::of_link(device);
    }
    !is_others
}

/// To the daemon for this reason, unless the balancer's address is this host's own: from there, nothing comes by a
/// device, and what the stack delivers from there is the host's.
#[inline(always)]
pub fn if_foreign(balancer: &Addr, why: Counter) -> Verdict {
    match maps::is_own(balancer) {
        false => Verdict::pass(why),
        true => Verdict::drop(Counter::DatagramReversePath),
    }
}
