//! From the application to the balancer.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{
    Addr, Counter, Endpoint, LO,
    datagram::{Flow, Receiver, Way, spp},
    flow::{Piece, Tuple},
};

use super::{error, failed, first, orphan::is_orphan, way};
use crate::{
    clock,
    ctx::{self, Link, Unreadable, Version},
    lookup::socket::hears_at_any,
    maps::{self, Scratch, Sent},
    segmenter::{self, Hook},
    steer::{deliver::is_entrance, neighbour, reply},
    verdict::{Action, Verdict},
    wire::{
        self, cut, datagram, family, fragment,
        segment::{self, Kind},
    },
};

/// A packet that leaves by a device.
#[inline(always)]
pub fn outbound(ctx: &TcContext, link: Link) -> Verdict {
    match leaving(ctx, link) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

/// What leaves by our own device: for the spoof namespace, or led by the default route that it may have.
#[inline(always)]
pub fn outbound_own(ctx: &TcContext) -> Verdict {
    if is_done(ctx) {
        return Verdict::FOREIGN;
    }
    reply::own(ctx, outbound(ctx, Link::ETHERNET))
}

/// Whether it has been through here already, by another device: there may be any number of them below one another, as a
/// bridge's ports, and its socket would have it look like one that nat has renamed. With a tag it is the segmenter's.
#[inline(always)]
fn is_done(ctx: &TcContext) -> bool {
    let is_done = ctx::mark(ctx) == maps::mark() && !ctx::has_vlan(ctx);
    if is_done && is_entrance(ctx) {
        // It comes in there, and a mark would say what it is.
        ctx.set_mark(0);
    }
    is_done
}

#[inline(always)]
fn leaving(ctx: &TcContext, link: Link) -> Result<Verdict, Verdict> {
    if is_done(ctx) {
        return Ok(Verdict::FOREIGN);
    }
    let Some(version) = ctx::version(ctx) else {
        return Ok(if link.is_ethernet() && ctx::is_arp(ctx) {
            neighbour::asked(ctx)
        } else {
            Verdict::FOREIGN
        });
    };
    let scratch = maps::scratch().ok_or(Verdict::drop(Counter::DatagramFailed))?;
    match segment::read(ctx, version, link, &mut scratch.segment) {
        Kind::Udp => {
            let link = undo_nat(ctx, version, link, scratch).map_err(failed)?;
            datagram(ctx, version, link, scratch, Hook::Egress)
        }
        Kind::Icmp => error::leaving(ctx, version, link),
        Kind::Tcp => Ok(Verdict::FOREIGN),
        Kind::Other => {
            let link = undo_nat_of_piece(ctx, version, link, scratch).map_err(failed)?;
            piece(ctx, version, link)
        }
    }
}

/// What becomes of a packet of no flow. From a steer address, nothing leaves for the network.
#[inline(always)]
pub fn of_no_flow(source: &Addr) -> Verdict {
    if maps::is_steer(source) {
        Verdict::drop(Counter::DatagramOrphan)
    } else {
        Verdict::FOREIGN
    }
}

#[inline(always)]
pub fn find(reply: &Tuple, now: u32) -> Option<&'static mut Flow> {
    let flow = maps::find_datagram_flow(reply)?;
    // SAFETY: as in `inbound`; what is known of the way back is each time written whole by whoever finds
    // it out.
    let flow = unsafe { &mut *flow };
    (!flow.is_over(now)).then_some(flow)
}

/// Whether the flow has made room for another one meanwhile, which has its place in memory at once.
#[inline(always)]
fn is_another(reply: &Tuple, flow: &Flow) -> bool {
    !maps::has_slot(reply, flow.slot) && is_elsewhere(reply, flow)
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_elsewhere(reply: &Tuple, flow: &Flow) -> bool {
    maps::find_datagram_flow(reply).is_none_or(|found| !core::ptr::eq(found, flow))
}

#[inline(always)]
pub fn datagram(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    hook: Hook,
) -> Result<Verdict, Verdict> {
    let now = clock::seconds();
    let tuple = &scratch.segment.tuple;
    let Some(flow) = find(tuple, now) else {
        if is_orphan(ctx, tuple) {
            return Ok(Verdict::drop(Counter::DatagramOrphan));
        }
        return Ok(of_no_flow(tuple.addresses()[0]));
    };
    if flow.is_denied() {
        return Ok(Verdict::drop(Counter::DatagramDenied));
    }
    if let Some(why) = daemons(ctx, version, link, scratch, flow, now) {
        if why == Counter::DatagramReplyMany {
            match segmenter::take_apart(ctx, version, link, hook, why) {
                // What comes behind them isn't to overtake them.
                Err(verdict) if verdict.action == Action::Pass => flow.daemon_down = now,
                taken => return taken,
            }
        }
        return Ok(reply::steer(ctx, link, version, why));
    }
    if flow.last != now && flow.has(Receiver::V2_FIRST) {
        first::answered(flow, scratch, now);
    }
    flow.count_down(scratch.segment.payload.into(), now);
    scratch.rewrite.to = flow.back;
    if is_another(&scratch.segment.tuple, flow) {
        return Ok(Verdict::drop(Counter::DatagramOrphan));
    }
    let Way { device, mac, .. } = flow.way_back;
    let is_on_its_way = link.is_ethernet()
        && device == ctx::device(ctx)
        && ctx::mac(ctx) == Some(mac)
        && !scratch.is_of_other;
    ctx::ensure_ethernet(ctx, link, version).map_err(failed)?;
    let written = match flow.has(Receiver::SPP) {
        true => put_spp(ctx, version, scratch, flow),
        false => datagram::rewrite(ctx, version, scratch),
    };
    written.map_err(failed)?;
    // For `is_done`, but not where it comes in.
    let comes_in = is_on_its_way && device == LO;
    if hook == Hook::Egress && ctx::mark(ctx) == 0 && !comes_in {
        ctx.set_mark(maps::mark());
    }
    Ok(if is_on_its_way {
        Verdict::pass(Counter::DatagramDown)
    } else {
        Verdict::to(Action::ByRoute, device, Counter::DatagramDown)
    })
}

/// Why a reply is the daemon's to send on, if it is. Otherwise the flow knows the way back.
#[inline(always)]
fn daemons(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    flow: &mut Flow,
    now: u32,
) -> Option<Counter> {
    let to = Version::of(flow.back.addresses()[1]);
    let is_of_other = to != version;
    scratch.is_of_other = is_of_other;
    if !flow.has(Receiver::DIRECT) {
        return Some(Counter::DatagramReplyService);
    }
    if !segment::is_plain(&scratch.segment, version)
        || is_of_other && !family::has_sum(ctx, version, link)
    {
        flow.daemon_down = now;
        return Some(Counter::DatagramReplyService);
    }
    if Flow::follows(flow.daemon_down, now) {
        return Some(Counter::DatagramReplyOrder);
    }
    if !way::know(ctx, to, &flow.back, &mut flow.way_back, now) {
        return Some(Counter::DatagramReplyLong);
    }
    let is_spp = flow.has(Receiver::SPP);
    if ctx::is_many(ctx) && (is_spp || is_of_other) {
        return Some(Counter::DatagramReplyMany);
    }
    let more = if is_spp { spp::LEN as u32 } else { 0 };
    let is_long = !way::takes(to, &flow.way_back, way::length(ctx, to, scratch) + more);
    let is_moved = more > 0 || !link.is_ethernet() && !ctx::is_many(ctx);
    if is_long || is_moved && u64::from(scratch.segment.payload) > cut::MOST {
        flow.daemon_down = now;
        return Some(Counter::DatagramReplyLong);
    }
    None
}

/// The client is named as in its own datagrams: not turned round.
#[inline(always)]
fn put_spp(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    flow: &Flow,
) -> Result<(), Unreadable> {
    let client = scratch.segment.tuple.destination();
    let [a, b, c, d] = client.addr().words();
    let [e, f, g, h] = flow.stated.addr().words();
    let mut header = [0; spp::LEN / 2];
    header[0] = u16::from_ne_bytes(spp::MAGIC);
    for (at, word) in [a, b, c, d, e, f, g, h].into_iter().enumerate() {
        [header[1 + 2 * at], header[2 + 2 * at]] = wire::halves(word);
    }
    header[17] = (client.port() as u16).to_be();
    header[18] = (flow.stated.port() as u16).to_be();
    datagram::put_spp(ctx, version, scratch, &header)
}

/// Whether an application of this host has sent the packet; `scratch.rewrite.to` is as it should be then. What comes
/// from a container may have a socket too, which means nothing here.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_of_application(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> bool {
    if ctx::is_forwarded(ctx) {
        return false;
    }
    let Some(mut at) = ctx::socket_endpoint(ctx, version) else {
        return false;
    };
    let mut aim = maps::aim(&at);
    let is_known = aim.is_some();
    if !is_known {
        at = Endpoint::new(version.any(), at.port() as u16);
        aim = maps::aim(&at);
    }
    let Some(aim) = aim else {
        return false;
    };
    scratch.rewrite.to = Tuple::new(*aim.at(), scratch.segment.tuple.destination());
    is_known || is_connected(ctx, version, scratch)
}

/// An application at a wildcard address may connect a socket to each client, whose own address the kernel picks.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_connected(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> bool {
    let to = &scratch.rewrite.to;
    let peer = ctx::socket_addresses(ctx, version).map(|[_, peer]| peer);
    peer.as_ref() == Some(to.addresses()[1]) && hears_at_any(ctx, version, &to.reversed())
}

/// Whether a reply has another source than its client sent to, be it by the host's nat (masquerade) or the kernel's
/// choice; `scratch.rewrite.to` is what it should be. Conntrack had forgotten the client by then, and took the reply
/// for a beginning. The socket that has sent it still says where the application is.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_renamed(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> bool {
    // A reply that has its own name still, or the application's own mark, by which it can't be told from one that
    // has been through here.
    if maps::is_steer(scratch.segment.tuple.addresses()[0]) || ctx::mark(ctx) != 0 {
        return false;
    }
    if !is_of_application(ctx, version, scratch)
        || scratch.rewrite.to.source() == scratch.segment.tuple.source()
    {
        return false;
    }
    find(&scratch.rewrite.to, clock::seconds()).is_some() || is_orphan(ctx, &scratch.rewrite.to)
}

/// Gives a reply back its own source.
#[inline(always)]
fn undo_nat(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Link, Unreadable> {
    if !is_renamed(ctx, version, scratch) {
        return Ok(link);
    }
    if !segment::is_plain(&scratch.segment, version) {
        return Err(Unreadable);
    }
    ctx::ensure_ethernet(ctx, link, version)?;
    scratch.is_of_other = false;
    datagram::rewrite(ctx, version, scratch)?;
    scratch.segment.tuple = scratch.rewrite.to;
    Ok(Link::ETHERNET)
}

/// The same of a piece. What a first piece is of has told about the others.
#[inline(always)]
fn undo_nat_of_piece(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Link, Unreadable> {
    let Some(id) = piece_of(ctx, version, scratch) else {
        return Ok(link);
    };
    let is_renamed = match scratch.segment.at {
        0 => is_later_piece(ctx, version, scratch, id),
        _ => is_renamed(ctx, version, scratch),
    };
    if !is_renamed {
        return Ok(link);
    }
    ctx::ensure_ethernet(ctx, link, version)?;
    fragment::rename(ctx, version, scratch)?;
    Ok(Link::ETHERNET)
}

/// A piece, whose number this is, is described in `scratch.segment`: where its ports are, or 0 if they are in an
/// earlier one, and its tuple.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn piece_of(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> Option<u32> {
    let piece = fragment::read(ctx, version, IpProto::Udp)?;
    let [from, to] = piece.piece.addresses;
    (scratch.segment.at, scratch.segment.tuple) = match piece.is_first {
        true => (piece.at, piece.tuple(ctx).ok()?),
        false => (0, Tuple::from_wire(from, to, [0, 0])),
    };
    Some(piece.piece.id)
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_later_piece(ctx: &TcContext, version: Version, scratch: &mut Scratch, id: u32) -> bool {
    if !is_of_application(ctx, version, scratch) {
        return false;
    }
    let addresses = *scratch.rewrite.to.both_addresses();
    addresses[0] != *scratch.segment.tuple.addresses()[0]
        && maps::sent_in_pieces(&Piece { addresses, id }).is_some()
}

/// What a first piece is of. What comes behind it follows it.
#[inline(always)]
fn sent(ctx: &TcContext, datagram: &Tuple) -> Option<Sent> {
    let now = clock::seconds();
    if let Some(flow) = find(datagram, now) {
        flow.daemon_down = now;
        return Some(Sent::Reply);
    }
    is_orphan(ctx, datagram).then_some(Sent::Orphan)
}

/// A reply in pieces: the daemon puts it together. From a steer address nothing else comes.
#[inline(always)]
pub fn piece(ctx: &TcContext, version: Version, link: Link) -> Result<Verdict, Verdict> {
    let Some(piece) = fragment::read(ctx, version, IpProto::Udp) else {
        let source = wire::source(ctx, version, link).map_err(failed)?;
        return Ok(of_no_flow(&source));
    };
    let of = &piece.piece;
    let sent = match piece.is_first {
        false => maps::sent_in_pieces(of),
        true => {
            let sent = sent(ctx, &piece.tuple(ctx).map_err(failed)?);
            if let Some(sent) = sent {
                maps::remember_sent(of, sent);
            }
            sent
        }
    };
    Ok(match sent {
        Some(Sent::Reply) => reply::steer(ctx, link, version, Counter::DatagramReplyPiece),
        Some(Sent::Orphan) => Verdict::drop(Counter::DatagramOrphan),
        None => of_no_flow(&of.addresses[0]),
    })
}
