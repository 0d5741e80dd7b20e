//! From the balancer to the application.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{Counter, Endpoint, LO, datagram::Receiver, flow::Tuple};

use super::{
    admission::{admit, receiver_of},
    beyond, failed,
    first::{self, Came},
    is_left, known,
};
use crate::{
    clock,
    ctx::{self, Link, Unreadable, Version},
    enter::{enter, enter_by},
    lookup::{hooks, socket},
    maps::{self, Scratch},
    segmenter::{self, Hook},
    verdict::{Action, Verdict},
    wire::{
        cut, datagram, family, fragment, proxy,
        segment::{self, Kind, Segment},
    },
};

/// A packet that comes in. Pieces of datagrams, which the stack puts together, are the daemon's.
#[inline(always)]
pub fn inbound(ctx: &TcContext, link: Link) -> Verdict {
    match incoming(ctx, link) {
        Ok(verdict) | Err(verdict) if verdict.action == Action::Drop && is_left(ctx) => {
            Verdict::FOREIGN
        }
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn incoming(ctx: &TcContext, link: Link) -> Result<Verdict, Verdict> {
    if !ctx::is_for_host(ctx) {
        return Ok(Verdict::FOREIGN);
    }
    let version = ctx::version(ctx).ok_or(Verdict::FOREIGN)?;
    let scratch = maps::scratch().ok_or(Verdict::drop(Counter::DatagramFailed))?;
    let kind = segment::read(ctx, version, link, &mut scratch.segment);
    let to_service = match kind {
        Kind::Udp => {
            is_nobodys_steer(ctx, &scratch.segment.tuple)?;
            admit(scratch)?
        }
        Kind::Other => return piece(ctx, version, link, scratch),
        Kind::Icmp | Kind::Tcp => None,
    };
    match to_service {
        Some(receiver) => datagram(ctx, version, link, scratch, receiver),
        None => beyond::reply(ctx, version, link, scratch, kind),
    }
}

/// Where an application hears its clients, nobody else may speak: who did could reach one that is bound to a loopback
/// address, and have the host say in its name that there is none. Where one hears by a device alone, `deliver` sees to
/// that.
#[inline(always)]
fn is_nobodys_steer(ctx: &TcContext, datagram: &Tuple) -> Result<(), Verdict> {
    let device = ctx::device(ctx);
    let at = datagram.destination();
    let is_foreign = device != LO
        && maps::is_steer(&at.addr())
        && !(maps::any_is_bound() && maps::bound_to(&at) == Some(device));
    match is_foreign {
        true => Err(Verdict::drop(Counter::DatagramSteerAddress)),
        false => Ok(()),
    }
}

/// The stack puts pieces together, and then nobody can tell which devices they came by.
#[inline(always)]
fn piece(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Verdict, Verdict> {
    let piece = fragment::read(ctx, version, IpProto::Udp).ok_or(Verdict::FOREIGN)?;
    if piece.is_first {
        scratch.segment.tuple = piece.tuple(ctx).map_err(failed)?;
        is_nobodys_steer(ctx, &scratch.segment.tuple)?;
        if let Some(receiver) = receiver_of(&scratch.segment.tuple) {
            scratch.segment.at = piece.at;
            if let Some(why) = refused_piece(ctx, version, scratch, receiver) {
                return Err(Verdict::drop(why));
            }
            be_followed(ctx, version, link, scratch, receiver);
            return Ok(Verdict::FOREIGN);
        }
    }
    beyond::reply(ctx, version, link, scratch, Kind::Other)
}

/// What the first piece of a datagram for a service is dropped for.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn refused_piece(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Option<Counter> {
    if !maps::allows(receiver.service(), scratch.segment.tuple.addresses()[0]) {
        return Some(Counter::DatagramRefused);
    }
    if first::is_balancers(ctx, version, scratch).is_err() {
        return Some(Counter::DatagramReversePath);
    }
    first::is_forgotten(ctx, scratch, receiver).then_some(Counter::DatagramForgotten)
}

#[inline(always)]
fn datagram(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<Verdict, Verdict> {
    let verdict = straight_on(ctx, version, link, scratch, receiver);
    match &verdict {
        _ if !maps::has(receiver, Receiver::V2_FIRST) => {}
        Err(to_daemon) if to_daemon.action == Action::Pass => {
            first::leave(ctx, version, scratch, receiver);
        }
        Err(dropped) if first::is_refusal(dropped.why) => {
            first::remember_refused(ctx, version, scratch, receiver);
        }
        _ => {}
    }
    verdict
}

/// An error is what becomes of one that doesn't go straight to its application.
#[inline(always)]
fn straight_on(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<Verdict, Verdict> {
    if !first::speaks_for(ctx, Came::Unasked(ctx, version), scratch, receiver)? {
        read_whole(ctx, version, link, scratch, receiver)?;
        if ctx::is_many(ctx) {
            first::name_of_many(ctx, version, scratch, receiver)?;
            return take_apart(ctx, version, link);
        }
    }
    if let Some(why) = fit(version, scratch, receiver) {
        return Err(Verdict::pass(why));
    }
    let rest = u64::from(scratch.segment.payload - scratch.proxy.len);
    let is_moved = has_header(scratch) || !link.is_ethernet() && !ctx::is_many(ctx);
    if !segment::is_plain(&scratch.segment, version) || is_moved && rest > cut::MOST {
        if maps::denies(receiver.service(), &scratch.proxy.source.addr()) {
            return Err(Verdict::drop(Counter::DatagramDenied));
        }
        note_given(scratch);
        return Err(Verdict::pass(Counter::DatagramToDaemonLong));
    }
    if scratch.is_of_other {
        if ctx::is_many(ctx) {
            return take_apart(ctx, version, link);
        }
        has_sum(ctx, version, link, scratch)?;
    }
    scratch.in_place = may_stay(ctx, version, link, scratch);
    known::remember(ctx, version, scratch, receiver)?;
    ctx::ensure_ethernet(ctx, link, version).map_err(failed)?;
    if has_header(scratch) && maps::has(receiver, Receiver::V2_FIRST) {
        first::remember(scratch, receiver);
    }
    write(ctx, version, scratch).map_err(failed)?;
    let aim = &scratch.rewrite.to.destination();
    let is_steered = maps::is_steer(&aim.addr());
    if scratch.in_place && scratch.device == 0 && (!is_steered || is_heard(ctx, version, scratch)) {
        return Ok(Verdict::to(Action::Accept, 0, Counter::DatagramUp));
    }
    if has_header(scratch) && !scratch.is_closed_up {
        cut::end(ctx, &scratch.segment, scratch.proxy.len).map_err(failed)?;
    }
    let is_found = !scratch.is_of_other && maps::finds_datagram_app(scratch.app_at, aim);
    if is_steered && !is_found {
        // `deliver` has to find the application.
        ctx.set_mark(maps::mark());
    }
    match scratch.device {
        0 => in_to(ctx, aim).map_err(failed),
        device => Ok(Verdict::to(Action::ByRoute, device, Counter::DatagramUp)),
    }
}

#[inline(always)]
fn write(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> Result<(), Unreadable> {
    match has_header(scratch) {
        true => datagram::cut(ctx, version, scratch),
        false => datagram::rewrite(ctx, version, scratch),
    }
}

#[inline(always)]
fn take_apart(ctx: &TcContext, version: Version, link: Link) -> Result<Verdict, Verdict> {
    let to_daemon = Counter::DatagramToDaemonMany;
    segmenter::take_apart(ctx, version, link, Hook::Ingress, to_daemon)
}

/// Whether one is in front of the payload. Read where it matters: the verifier needn't follow each from where it is
/// found out.
#[inline(always)]
fn has_header(scratch: &Scratch) -> bool {
    !maps::any_has(Receiver::V2_FIRST) || scratch.proxy.len > 0
}

/// One of the other family has to have a checksum.
#[inline(always)]
fn has_sum(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<(), Verdict> {
    if family::has_sum(ctx, version, link) {
        return Ok(());
    }
    note_given(scratch);
    Err(Verdict::pass(Counter::DatagramToDaemonFamily))
}

/// Whether it may go on from the device that it came by.
#[inline(always)]
fn may_stay(ctx: &TcContext, version: Version, link: Link, scratch: &Scratch) -> bool {
    link.is_ethernet()
        && !scratch.is_of_other
        && !maps::any_is_bound()
        && hooks::are_absent(ctx, version)
}

/// The header of a datagram that isn't in pieces, if it counts.
#[inline(always)]
fn read_whole(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<(), Verdict> {
    let read = read_header(ctx, version, link, scratch, receiver);
    if read.is_err() {
        // Its beginning says nothing.
        scratch.proxy.len = 0;
    }
    read?;
    first::counts(scratch, receiver)
}

#[inline(always)]
fn read_header(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<(), Verdict> {
    let read = match maps::has(receiver, Receiver::SPP) {
        true => proxy::read_spp(ctx, version, link, scratch),
        false => proxy::read_v2_datagram(ctx, version, link, scratch),
    };
    read.map_err(|_| Verdict::pass(Counter::DatagramToDaemonHeader))
}

/// Has what comes behind a first piece follow it to the daemon, if its flow is there.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn be_followed(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> bool {
    let Segment { tuple, at, .. } = scratch.segment;
    scratch.segment = Segment::datagram(tuple, at, ctx::len(ctx, link));
    let noted = (|| {
        if !first::speaks_for(ctx, Came::ItsWay, scratch, receiver)? {
            let is_v2_first = maps::has(receiver, Receiver::V2_FIRST);
            let read = read_header(ctx, version, link, scratch, receiver);
            if read.is_err() && scratch.proxy.len == 0 {
                if is_v2_first && !scratch.is_named {
                    first::leave_undecided(scratch, receiver);
                }
                return read;
            }
            first::counts(scratch, receiver)?;
            if is_v2_first && !scratch.is_named {
                first::name(scratch, receiver);
            }
        }
        let steered = receiver.target(&scratch.proxy.source.addr());
        scratch.rewrite.to = Tuple::new(scratch.proxy.source, steered.steer);
        note_given(scratch);
        Ok::<(), Verdict>(())
    })();
    noted.is_ok()
}

#[inline(never)]
fn note_given(scratch: &mut Scratch) {
    scratch.app = scratch.rewrite.to.reversed();
    if let Some(flow) = maps::find_datagram_flow(&scratch.app) {
        // SAFETY: as in `remember`.
        let flow = unsafe { &mut *flow };
        if flow.back.is_reverse_of(&scratch.segment.tuple) {
            flow.daemon_up = clock::seconds();
        }
    }
}

/// To an application on this host.
#[inline(always)]
fn in_to(ctx: &TcContext, aim: &Endpoint) -> Result<Verdict, Unreadable> {
    let bound = if maps::any_is_bound() {
        maps::bound_to(aim)
    } else {
        None
    };
    match bound {
        Some(device) => enter_by(ctx, device, Counter::DatagramUp),
        None => enter(ctx, Counter::DatagramUp),
    }
}

/// Whether a socket gets a datagram to a steer address from where it is now.
#[inline(always)]
fn is_heard(ctx: &TcContext, version: Version, scratch: &Scratch) -> bool {
    let aim = &scratch.rewrite.to.destination();
    let is_heard = maps::give_datagram_app(ctx, scratch.app_at)
        .unwrap_or_else(|| maps::is_hearing(aim) || hears_by_itself(ctx, version, scratch));
    if !is_heard {
        note_by_lo(scratch);
    }
    is_heard
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn hears_by_itself(ctx: &TcContext, version: Version, scratch: &Scratch) -> bool {
    let datagram = &scratch.rewrite.to;
    let hears = socket::hears(ctx, version, datagram, |_| ()).is_some();
    if hears {
        maps::note_hearing(&datagram.destination());
    }
    hears
}

#[inline(never)]
fn note_by_lo(scratch: &Scratch) {
    if let Some(flow) = maps::find_datagram_flow(&scratch.rewrite.to.reversed()) {
        // SAFETY: as in `is_known`.
        unsafe { (*flow).by_lo = clock::seconds() };
    }
}

/// Notes where the client's datagrams go, or tells why that is the daemon's to decide.
///
/// A function of its own: the verifier needn't follow each family's from here on.
#[inline(never)]
fn fit(version: Version, scratch: &mut Scratch, receiver: &Receiver) -> Option<Counter> {
    let client = scratch.proxy.source;
    let steered = receiver.target(&client.addr());
    scratch.rewrite.to = Tuple::new(client, steered.steer);
    scratch.is_of_other = datagram::is_of_other(version, &scratch.rewrite.to);
    if !steered.is_set() {
        return Some(Counter::DatagramToDaemonFamily);
    }
    (client.port() == 0).then_some(Counter::DatagramToDaemonClient)
}
