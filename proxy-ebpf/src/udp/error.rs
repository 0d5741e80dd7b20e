//! What hosts and routers say of a client's datagram: to the balancer, or to nobody.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{Counter, flow::Tuple};

use super::{failed, orphan::is_orphan, outbound, way};
use crate::{
    clock,
    ctx::{self, Link, Version},
    maps,
    verdict::{Action, Verdict},
    wire::{self, icmp, icmp_family},
};

/// What leaves: a word of this host's, or one that somebody else would have a balancer believe.
#[inline(always)]
pub fn leaving(ctx: &TcContext, version: Version, link: Link) -> Result<Verdict, Verdict> {
    if !ctx::is_forwarded(ctx) {
        return error(ctx, version, link);
    }
    let lost = match icmp::about(ctx, version, IpProto::Udp) {
        Some(about) => of_clients(ctx, &about),
        None => of_lost(ctx, version),
    };
    let source = wire::source(ctx, version, link).map_err(failed)?;
    Err(lost.unwrap_or(outbound::of_no_flow(&source)))
}

/// What this host, or the application's, says of a datagram that it had for the application is for the balancer.
#[inline(always)]
pub fn error(ctx: &TcContext, version: Version, link: Link) -> Result<Verdict, Verdict> {
    let source = wire::source(ctx, version, link).map_err(failed)?;
    let foreign = outbound::of_no_flow(&source);
    let Some(about) = icmp::about(ctx, version, IpProto::Udp) else {
        return Err(of_lost(ctx, version).unwrap_or(foreign));
    };
    let now = clock::seconds();
    let Some(flow) = outbound::find(&about.reversed(), now) else {
        return Err(of_clients(ctx, &about).unwrap_or(foreign));
    };
    let to = flow.back.reversed();
    let [balancer, service] = to.addresses();
    let of = Version::of(balancer);
    if !maps::may_tell_error(now) {
        return Ok(Verdict::drop(Counter::DatagramIcmpLimited));
    }
    if !way::know(ctx, of, &flow.back, &mut flow.way_back, now) {
        return Ok(Verdict::drop(Counter::DatagramFailed));
    }
    ctx::ensure_ethernet(ctx, link, version).map_err(failed)?;
    let written = match of == version {
        true => icmp::translate(ctx, version, &about, &to, Some(service)),
        false => icmp_family::write(ctx, version, &to),
    };
    written.map_err(failed)?;
    Ok(Verdict::to(
        Action::ByRoute,
        flow.way_back.device,
        Counter::DatagramIcmp,
    ))
}

/// What becomes of an error that is neither for a balancer nor for its client, if it is about a client's datagram.
#[inline(always)]
pub fn of_lost(ctx: &TcContext, version: Version) -> Option<Verdict> {
    let lost = icmp::about_lost(ctx, version)?;
    match lost.ports() {
        [0, 0] => maps::is_target_address(*lost.addresses()[1]).then_some(LOST),
        _ => of_clients(ctx, &lost),
    }
}

const LOST: Verdict = Verdict::drop(Counter::DatagramIcmpLost);

/// The flow may be over by then, or forgotten.
#[inline(always)]
pub fn of_clients(ctx: &TcContext, datagram: &Tuple) -> Option<Verdict> {
    let reply = datagram.reversed();
    let is_clients = match maps::find_datagram_flow(&reply) {
        // SAFETY: as in `outbound::find`.
        Some(flow) => unsafe { (*flow).may_be_told(clock::seconds()) },
        None => is_orphan(ctx, &reply),
    };
    is_clients.then_some(LOST)
}
