//! Connections that the daemon has handed over: the balancer's packets go to the application and the
//! application's to the balancer, each as the other one's leg counts.
//!
//! The daemon's own sockets stay as they were at the handover. What they had taken they still bring
//! to the other side, so both wait for acknowledgments for a moment; their resets at the end are
//! given the numbers of the day.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_tcp_sock},
    programs::TcContext,
};
use proxy_common::{
    LO, VETH_MAC,
    handover::{Ended, Flow, Handed, Way},
};

use crate::{
    inject::LO_MAC,
    maps,
    packet::{self, Face, Head, Numbers, Options, TooLarge, Unreadable, Version},
    route,
    socket::{HERE, with_socket},
};

pub enum Forward {
    /// No packet of a connection that was handed over.
    Foreign,
    /// To the application: in by `lo`, or by the veth where `lo` is strict.
    ToApp(u32),
}

/// Memory is short: TCP sends it again.
pub struct Failed;

/// A packet of the balancer.
#[inline(always)]
pub fn forward(ctx: &TcContext, version: Version) -> Result<Forward, Failed> {
    let Some(port) = packet::tcp_destination(ctx, version) else {
        return too_large(ctx, version);
    };
    if !maps::is_served(port) {
        return Ok(Forward::Foreign);
    }
    let Some((head, id, handed)) = find(ctx, version) else {
        return Ok(Forward::Foreign);
    };
    // SAFETY: of `Handed::down`, this only reads words that the other direction writes whole.
    let (up, down) = unsafe { (&mut (*handed).up, &(*handed).down) };
    if head.first() && is_over(up, down) {
        // The balancer opens the next connection from the same port.
        maps::forget(&head.flow);
        return make_way(ctx, version, &head);
    }
    up.device = packet::device(ctx);
    let mut known = Known::NOTHING;
    if maps::is_owed(id) {
        known = Known::read(ctx, version, &head, HERE);
    }
    // What was on its way at the handover the programs may not have seen.
    let mut sent = down.end.wrapping_add(down.seq);
    if known.live {
        sent = later(sent, known.sent);
    }
    note(&head, id, Ended::DOWN, Some(later(sent, up.ack)), up, down);
    // SAFETY: written once, before the flows that lead here.
    let flow = unsafe { &(*handed).to_app };
    let (own, after) = (head.face(), onwards(&head, flow, up, down));
    let options = options(ctx, version, &head, up, down);
    let rewritten = packet::rewrite(ctx, version, &own, &after)
        .and_then(|()| packet::rewrite_options(ctx, version, &head, &options));
    rewritten.map_err(|Unreadable| Failed)?;
    let mark = packet::mark(ctx);
    let device = to_entrance(ctx).map_err(|Unreadable| Failed)?;
    if head.acknowledges() && known.live {
        // The application gets a copy of it, the daemon's socket the packet.
        let _ = ctx.clone_redirect(device, BPF_F_INGRESS.into());
        ctx.set_mark(mark);
        let own = for_daemon(own, head.payload, known);
        let restored = packet::rewrite(ctx, version, &after, &own)
            .and_then(|()| packet::rewrite_options(ctx, version, &head, &undone(&options)));
        restored.map_err(|Unreadable| Failed)?;
        return Ok(Forward::Foreign);
    }
    Ok(Forward::ToApp(device))
}

/// The daemon may not have closed its socket yet, which would answer a stranger. A reset does that,
/// and the segment comes again right behind it.
#[inline(always)]
fn make_way(ctx: &TcContext, version: Version, head: &Head) -> Result<Forward, Failed> {
    let Known { live, heard, .. } = Known::read(ctx, version, head, HERE);
    if live {
        let _ = ctx.clone_redirect(packet::device(ctx), BPF_F_INGRESS.into());
        packet::rewrite(ctx, version, &head.face(), &head.as_reset(heard))
            .map_err(|Unreadable| Failed)?;
    }
    Ok(Forward::Foreign)
}

/// A router's word on a packet that the application sent is for the application.
#[inline(always)]
fn too_large(ctx: &TcContext, version: Version) -> Result<Forward, Failed> {
    let Some(told) = packet::too_large(ctx, version) else {
        return Ok(Forward::Foreign);
    };
    let Some((_, handed)) = maps::handed(&told.flow.reversed()) else {
        return Ok(Forward::Foreign);
    };
    // SAFETY: read only.
    let handed = unsafe { &*handed };
    let meant = TooLarge {
        flow: handed.to_app.reversed(),
        seq: told.seq.wrapping_sub(handed.down.seq),
    };
    packet::rewrite_too_large(ctx, version, &told, &meant)
        .and_then(|()| to_entrance(ctx))
        .map(Forward::ToApp)
        .map_err(|Unreadable| Failed)
}

pub enum Reply {
    /// Of a connection that goes through the daemon.
    Steer,
    /// Out by this device.
    ToBalancer(u32),
}

/// A packet of the application, with an Ethernet header.
#[inline(always)]
pub fn reply(ctx: &TcContext, version: Version) -> Result<Reply, Failed> {
    let Some((head, id, handed)) = find(ctx, version) else {
        return Ok(Reply::Steer);
    };
    // SAFETY: as in `forward`, the other way round.
    let (up, down) = unsafe { (&(*handed).up, &mut (*handed).down) };
    // SAFETY: as in `forward`.
    let flow = unsafe { &(*handed).to_balancer };
    let device = way_out(ctx, version, flow, up, down);
    if device == 0 {
        return Ok(Reply::Steer);
    }
    let mut known = Known::NOTHING;
    if head.acknowledges() && maps::is_owed(id) {
        known = Known::read(ctx, version, &head, maps::spoof_netns());
    }
    if known.live {
        // The daemon's socket gets a copy of it.
        let own = for_daemon(head.face(), head.payload, known);
        packet::rewrite(ctx, version, &head.face(), &own)
            .and_then(|()| packet::set_macs(ctx, VETH_MAC))
            .map_err(|Unreadable| Failed)?;
        let mark = packet::mark(ctx);
        ctx.set_mark(maps::mark());
        let _ = ctx.clone_redirect(maps::device(), 0);
        ctx.set_mark(mark);
        packet::rewrite(ctx, version, &own, &head.face()).map_err(|Unreadable| Failed)?;
    }
    note(&head, id, Ended::UP, None, down, up);
    let after = onwards(&head, flow, down, up);
    let options = options(ctx, version, &head, down, up);
    packet::rewrite(ctx, version, &head.face(), &after)
        .and_then(|()| packet::rewrite_options(ctx, version, &head, &options))
        .map_err(|Unreadable| Failed)?;
    Ok(Reply::ToBalancer(device))
}

/// What becomes of a packet that one of the daemon's own sockets sends.
pub enum Leave {
    AsItIs,
    /// Its connection is over, and its reset only for this host's firewall to hear.
    Unheard,
}

/// Whom a packet is for.
#[derive(Clone, Copy)]
pub enum Receiver {
    App,
    Balancer,
}

/// A packet that one of the daemon's own sockets sends.
#[inline(always)]
pub fn leave(ctx: &TcContext, version: Version, receiver: Receiver) -> Leave {
    let Some(head) = packet::head(ctx, version) else {
        return Leave::AsItIs;
    };
    let Some((id, handed)) = maps::handed(&head.flow.reversed()) else {
        return Leave::AsItIs;
    };
    // SAFETY: read only.
    let (up, down) = unsafe { (&(*handed).up, &(*handed).down) };
    let over = is_over(up, down);
    if head.first() && over {
        // The client's next connection.
        maps::forget(&head.flow.reversed());
        return Leave::AsItIs;
    }
    // What the receiver sends, and what it is sent.
    let (from, to) = match receiver {
        Receiver::App => (down, up),
        Receiver::Balancer => (up, down),
    };
    let seq = to.end.wrapping_add(to.seq);
    let numbers = if head.rst() {
        if over {
            return Leave::Unheard;
        }
        Numbers {
            seq: later(seq, head.numbers.seq),
            ..head.numbers
        }
    } else {
        up_to_date(&head, id, seq, from, to)
    };
    // On failure it goes as it is, and is asked back.
    let flow = &head.flow;
    let after = Face { flow, numbers };
    let _ = packet::rewrite(ctx, version, &head.face(), &after);
    Leave::AsItIs
}

/// The socket knows no acknowledgment that was passed on since, and a receiver throws away whatever
/// comes with too old a one. What has no byte in it and isn't owed asks whether anybody is there.
#[inline(always)]
fn up_to_date(head: &Head, id: u32, seq: u32, from: &Way, to: &Way) -> Numbers {
    let mut numbers = head.numbers;
    if head.bare() && !maps::is_owed(id) {
        numbers.seq = seq.wrapping_sub(1);
    }
    let ack = to.ack.wrapping_sub(from.seq);
    if is_after(ack, numbers.ack) {
        numbers.ack = ack;
        numbers.window = scaled(to.window, to);
    }
    numbers
}

/// Makes a packet of the balancer's ready for where it enters the host: the device. At the veth the
/// mark tells it from what comes out of the spoof namespace.
#[inline(always)]
fn to_entrance(ctx: &TcContext) -> Result<u32, Unreadable> {
    if maps::via_lo() {
        packet::set_macs(ctx, LO_MAC)?;
        return Ok(LO);
    }
    packet::set_macs(ctx, VETH_MAC)?;
    ctx.set_mark(maps::mark());
    Ok(maps::device())
}

#[inline(always)]
fn find(ctx: &TcContext, version: Version) -> Option<(Head, u32, *mut Handed)> {
    let head = packet::head(ctx, version)?;
    let (id, handed) = maps::handed(&head.flow)?;
    Some((head, id, handed))
}

/// Both sides have closed, or one has reset.
#[inline(always)]
const fn is_over(one: &Way, other: &Way) -> bool {
    one.reset | other.reset != 0 || one.fin_acked & other.fin_acked != 0
}

/// Keeps track of a packet of `own`; `other` is the direction that it acknowledges. Tells the daemon
/// of an end: `all` when everything that the other side sent is acknowledged.
///
/// Anybody can send in the balancer's name: what its receiver will throw away changes nothing, nor
/// does an acknowledgment beyond `most`. The application sends from this host: it has none.
#[inline(always)]
fn note(head: &Head, id: u32, all: u32, most: Option<u32>, own: &mut Way, other: &Way) {
    // SAFETY: a helper without arguments.
    own.seen = unsafe { bpf_ktime_get_coarse_ns() };
    let how = match keep_track(head, most, own, other) {
        NOTHING => return,
        ALL => all,
        _ => Ended::RESET,
    };
    maps::tell(&Ended { id, how });
}

const NOTHING: u64 = 0;
const ALL: u64 = 1;
const RESET: u64 = 2;

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn keep_track(head: &Head, most: Option<u32>, own: &mut Way, other: &Way) -> u64 {
    let Numbers {
        seq, ack, window, ..
    } = head.numbers;
    let next = other.ack.wrapping_sub(own.seq);
    if head.rst() {
        let exact = most.is_none() || seq == next || seq == own.end;
        if !exact || own.reset != 0 {
            return NOTHING;
        }
        own.reset = 1;
        return RESET;
    }
    let edge = other.edge.wrapping_sub(own.seq);
    if let Some(most) = most
        && (is_after(next, head.end())
            || is_after(seq, edge)
            || head.has_ack() && is_after(ack, most))
    {
        return NOTHING;
    }
    if is_after(head.end(), own.end) {
        own.end = head.end();
    }
    if head.fin() {
        own.fin = 1;
    }
    if !head.has_ack() {
        return NOTHING;
    }
    own.window = window;
    let promised = ack.wrapping_add(window << (own.scale & 15));
    if is_after(promised, own.edge) {
        own.edge = promised;
    }
    let more = ack.wrapping_sub(own.ack);
    if more.cast_signed() > 0 {
        own.ack = ack;
        own.acked += u64::from(more);
    }
    let end = other.end.wrapping_add(other.seq);
    if other.fin != 0 && own.fin_acked == 0 && !is_after(end, own.ack) {
        own.fin_acked = 1;
        return ALL;
    }
    NOTHING
}

/// The device that leads to the balancer: what the routes say, looked up once a second, or else
/// where its packets come from.
#[inline(always)]
fn way_out(ctx: &TcContext, version: Version, flow: &Flow, up: &Way, down: &mut Way) -> u32 {
    // SAFETY: a helper without arguments.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32 + 1;
    if down.device_since != now {
        down.device_since = now;
        down.device = route::device(ctx, version, flow)
            .filter(|device| *device != maps::device())
            .unwrap_or(up.device);
    }
    down.device
}

/// What a packet of `own` is on the other leg.
#[inline(always)]
const fn onwards<'a>(head: &Head, flow: &'a Flow, own: &Way, other: &Way) -> Face<'a> {
    let numbers = Numbers {
        seq: head.numbers.seq.wrapping_add(own.seq),
        ack: head.numbers.ack.wrapping_sub(other.seq),
        window: scaled(head.numbers.window, own),
        ..head.numbers
    };
    Face { flow, numbers }
}

/// An acknowledgment for the daemon's own socket: of no more than it has sent, and with no byte that
/// it hasn't heard, so that it takes nothing else from it. A leap ahead would look like somebody
/// else's packet to a firewall that follows what the socket hears.
#[inline(always)]
const fn for_daemon(face: Face<'_>, payload: u32, known: Known) -> Face<'_> {
    let Known { sent, heard, .. } = known;
    let [offset, flags] = face.numbers.offset_flags;
    let numbers = Numbers {
        seq: match payload {
            0 => earlier(face.numbers.seq, heard),
            payload => heard.wrapping_sub(payload),
        },
        ack: earlier(face.numbers.ack, sent),
        // The end isn't for it, though the acknowledgment beside it may be.
        offset_flags: [offset, flags & !Head::FIN],
        ..face.numbers
    };
    Face { numbers, ..face }
}

/// Up to where one of the daemon's own sockets has sent and heard.
#[derive(Clone, Copy)]
struct Known {
    /// Whether there is such a socket.
    live: bool,
    sent: u32,
    heard: u32,
}

impl Known {
    const NOTHING: Self = Self {
        live: false,
        sent: 0,
        heard: 0,
    };

    /// Of the socket that would hear the packet in `netns`.
    #[inline(always)]
    fn read(ctx: &TcContext, version: Version, head: &Head, netns: u64) -> Self {
        let mut known = Self::NOTHING;
        read_known(ctx, version, &head.flow, netns, &mut known);
        known
    }
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn read_known(
    ctx: &TcContext,
    version: Version,
    flow: &Flow,
    netns: u64,
    known: &mut Known,
) -> u64 {
    /// TCP_LISTEN.
    const LISTEN: u32 = 10;
    let tuple = [&flow.source, &flow.destination];
    with_socket(ctx, version, tuple, netns, |socket| {
        // SAFETY: a live socket; what is no full TCP socket gives null.
        let tcp = unsafe { bpf_tcp_sock(socket) };
        // SAFETY: the kernel's own structs, the second if it isn't null.
        let (socket, tcp) = unsafe { (&*socket, tcp.as_ref()) };
        if let Some(tcp) = tcp
            && socket.state != LISTEN
        {
            *known = Known {
                live: true,
                sent: tcp.snd_nxt,
                heard: tcp.rcv_nxt,
            };
        }
    });
    0
}

/// A window of `own` in the scale that its receiver expects.
#[inline(always)]
const fn scaled(window: u32, own: &Way) -> u32 {
    let bytes = window << (own.scale & 15);
    let window = bytes >> (own.scale_expected & 15);
    if window > u16::MAX as u32 {
        u16::MAX as u32
    } else {
        window
    }
}

/// What the options of a packet of `own` are on the other leg. Timestamps go on from where the
/// daemon's own were.
#[inline(always)]
fn options(ctx: &TcContext, version: Version, head: &Head, own: &mut Way, other: &Way) -> Options {
    const MILLISECOND: u64 = 1_000_000;
    /// The clock was read a moment ago and rounded: never go back.
    const MARGIN: u32 = 4;
    let mut stamp = stamp_of(own);
    if stamp.is_none()
        && let Some(sent) = packet::timestamp(ctx, version, head)
    {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() } / MILLISECOND;
        let shown = own.clock.wrapping_add(now as u32).wrapping_add(MARGIN);
        let plus = shown.wrapping_sub(sent);
        // SAFETY: a plain store, of one word so that no other CPU sees half of it.
        unsafe { (&raw mut own.stamp).write_volatile(Way::STAMPED | u64::from(plus)) };
        stamp = Some(plus);
    }
    Options {
        stamp: stamp.unwrap_or(0),
        echo: stamp_of(other).map(|stamp| 0_u32.wrapping_sub(stamp)),
        sack: 0_u32.wrapping_sub(other.seq),
    }
}

/// What is added to the timestamps of this direction.
#[inline(always)]
fn stamp_of(way: &Way) -> Option<u32> {
    // SAFETY: a plain load.
    let stamp = unsafe { (&raw const way.stamp).read_volatile() };
    (stamp & Way::STAMPED != 0).then_some(stamp as u32)
}

/// Takes `options` back.
#[inline(always)]
const fn undone(options: &Options) -> Options {
    Options {
        stamp: 0_u32.wrapping_sub(options.stamp),
        echo: match options.echo {
            Some(echo) => Some(0_u32.wrapping_sub(echo)),
            None => None,
        },
        sack: 0_u32.wrapping_sub(options.sack),
    }
}

/// Whether `one` comes after `other`, as sequence numbers go round.
#[inline(always)]
const fn is_after(one: u32, other: u32) -> bool {
    other.wrapping_sub(one).cast_signed() < 0
}

#[inline(always)]
const fn earlier(one: u32, other: u32) -> u32 {
    if is_after(one, other) { other } else { one }
}

#[inline(always)]
const fn later(one: u32, other: u32) -> u32 {
    if is_after(one, other) { one } else { other }
}
