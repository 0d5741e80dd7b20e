//! Applications beyond this host, as in a container. Their datagrams leave by the device that leads there,
//! past ip_forward and the FORWARD chain, and what they answer is caught where it comes in.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{Addr, Counter, datagram::Flow, flow::Tuple};

use super::{error, failed, orphan::is_orphan, outbound, way};
use crate::{
    clock,
    ctx::{Link, Version},
    maps::{self, Scratch},
    segmenter::Hook,
    verdict::{Action, Verdict},
    wire::{fragment, icmp, segment::Kind},
};

/// Whether an application's address is neither the host's nor a steer address.
#[inline(always)]
fn is_beyond(application: &Addr) -> bool {
    maps::any_is_beyond() && !maps::is_steer(application) && !maps::is_own(application)
}

/// The device that leads to the application of a client's packet of so many bytes; 0: it is on this host.
#[inline(always)]
pub fn device(
    ctx: &TcContext,
    packet: &Tuple,
    length: u32,
    flow: &mut Flow,
    now: u32,
) -> Result<u32, Verdict> {
    if !is_beyond(packet.addresses()[1]) {
        return Ok(0);
    }
    let version = Version::of(packet.addresses()[1]);
    if !way::know(ctx, version, packet, &mut flow.way_on, now) {
        return Err(Verdict::drop(Counter::InjectNoRoute));
    }
    if !way::takes(version, &flow.way_on, length) {
        flow.daemon_up = now;
        return Err(Verdict::pass(Counter::DatagramToDaemonLong));
    }
    Ok(flow.way_on.device)
}

/// A packet that comes in, and is no balancer's.
#[inline(always)]
pub fn reply(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    kind: Kind,
) -> Result<Verdict, Verdict> {
    if !maps::any_is_beyond() {
        return Ok(Verdict::FOREIGN);
    }
    match kind {
        Kind::Udp => {
            is_applications(ctx, version, &scratch.segment.tuple)?;
            outbound::datagram(ctx, version, link, scratch, Hook::Ingress)
        }
        Kind::Icmp => {
            let Some(about) = icmp::about(ctx, version, IpProto::Udp) else {
                return Err(error::of_lost(ctx, version).unwrap_or(Verdict::FOREIGN));
            };
            is_applications(ctx, version, &about.reversed()).map_err(|verdict| {
                match verdict.action {
                    Action::Ignore => error::of_clients(ctx, &about).unwrap_or(verdict),
                    _ => verdict,
                }
            })?;
            error::error(ctx, version, link)
        }
        Kind::Other => {
            let piece = fragment::read(ctx, version, IpProto::Udp).ok_or(Verdict::FOREIGN)?;
            if piece.is_first {
                is_applications(ctx, version, &piece.tuple(ctx).map_err(failed)?)?;
            }
            outbound::piece(ctx, version, link)
        }
        Kind::Tcp => Ok(Verdict::FOREIGN),
    }
}

/// By any other device than the one that leads to the application, anybody could answer in its name.
#[inline(always)]
fn is_applications(ctx: &TcContext, version: Version, reply: &Tuple) -> Result<(), Verdict> {
    if is_orphan(ctx, reply) && outbound::find(reply, clock::seconds()).is_none() {
        // By whichever device it came, it goes nowhere.
        return Ok(());
    }
    if !maps::is_remote(&reply.source()) || !is_beyond(reply.addresses()[0]) {
        return Err(Verdict::FOREIGN);
    }
    let now = clock::seconds();
    let flow = outbound::find(reply, now).ok_or(Verdict::FOREIGN)?;
    if way::came_by(ctx, version, &reply.reversed(), &mut flow.way_on, now) {
        Ok(())
    } else {
        Err(Verdict::drop(Counter::DatagramReversePath))
    }
}
