//! The balancer's SYN.

use aya_ebpf::programs::TcContext;
use network_types::ip::IpProto;
use proxy_common::{
    Counter, Host, Listener,
    cookie::{Agreed, Asked, Numbers},
    flow::{Pending, seconds},
};

use super::{
    FAILED,
    answer::{self, SynAck},
    to_daemon,
};
use crate::{
    admit::serving::serving,
    clock,
    ctx::{self, Link, Unreadable, Version},
    lookup::{
        route,
        socket::{Presence, presence},
    },
    maps::{self, Scratch},
    verdict::Verdict,
    wire::{
        options::{self, Options},
        segment::{self, Kind, Segment},
    },
};

/// Where direct connections aren't to be had, SYNs are only refused if nobody is there.
#[inline(always)]
pub fn refuse(ctx: &TcContext, link: Link) -> Verdict {
    if !ctx::is_for_host(ctx) {
        return Verdict::FOREIGN;
    }
    let Some(version) = ctx::version(ctx) else {
        return Verdict::FOREIGN;
    };
    let Some(scratch) = maps::scratch() else {
        return FAILED;
    };
    let kind = segment::read(ctx, version, link, &mut scratch.segment);
    let port = u16::from_be(scratch.segment.tuple.ports()[1]);
    if kind != Kind::Tcp || !maps::is_served(port) || !scratch.segment.is_first() {
        return Verdict::FOREIGN;
    }
    match admitted(ctx, version, scratch) {
        Ok(_) => Verdict::FOREIGN,
        Err(refused) => refused,
    }
}

/// The listener of an admitted SYN, or what becomes of it otherwise.
#[inline(always)]
fn admitted(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
) -> Result<&'static Listener, Verdict> {
    match serving(ctx, version, &scratch.segment.tuple) {
        Ok(Some(listener)) => Ok(listener),
        Ok(None) => Err(Verdict::FOREIGN),
        Err(why) => Err(reset(ctx, version, scratch, why)?),
    }
}

/// Answered as by a port where nobody listens, if the stack hasn't to do it.
#[inline(always)]
fn reset(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    why: Counter,
) -> Result<Verdict, Verdict> {
    let way = route::way(
        ctx,
        version,
        &scratch.segment.tuple.reversed(),
        IpProto::Tcp,
    )
    .ok_or(Verdict::FOREIGN)?;
    if !segment::is_plain(&scratch.segment, version) || scratch.segment.payload > 0 {
        return Ok(Verdict::FOREIGN);
    }
    options::read(ctx, scratch)?;
    answer::reset(ctx, version, scratch)?;
    answer::out(ctx, &way, why)
}

#[inline(always)]
pub fn syn(ctx: &TcContext, version: Version, scratch: &mut Scratch) -> Result<Verdict, Verdict> {
    let listener = admitted(ctx, version, scratch)?;
    let (Some(host), Some(_)) = (maps::host(), maps::secret()) else {
        return Ok(to_daemon(&scratch.segment.tuple, Counter::ToDaemonService));
    };
    if let Some(why) = unfit(ctx, version, scratch, listener, host)? {
        return Ok(to_daemon(&scratch.segment.tuple, why));
    }
    // The stack knows how to follow a connection that is in TIME_WAIT; two ends of one tuple there
    // can't be.
    if maps::was_given(&scratch.segment.tuple)
        && presence(ctx, version, &scratch.segment.tuple) != Presence::Gone
    {
        return Ok(to_daemon(&scratch.segment.tuple, Counter::ToDaemonTaken));
    }
    let way = route::way(
        ctx,
        version,
        &scratch.segment.tuple.reversed(),
        IpProto::Tcp,
    );
    // By any other device, anybody on that link could hear the answer.
    let Some(way) = way.filter(|way| way.device == ctx::device(ctx)) else {
        return Ok(to_daemon(&scratch.segment.tuple, Counter::ToDaemonRoute));
    };
    let agreed = agree(&scratch.options, host, version);
    let mut numbers = Numbers {
        sequence: 0,
        timestamp: 0,
    };
    if !number(&scratch.segment, listener, agreed.to_bits(), &mut numbers) {
        return Ok(to_daemon(&scratch.segment.tuple, Counter::ToDaemonPending));
    }
    let answer = SynAck {
        agreed,
        numbers,
        mtu: way.mtu,
        scale: host.scale as u8,
    };
    answer::syn_ack(ctx, version, scratch, &answer)?;
    answer::out(ctx, &way, Counter::DirectSyn)
}

/// Why this SYN's connection can't be direct. Afterwards its options are read.
#[inline(always)]
fn unfit(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    listener: &Listener,
    host: &Host,
) -> Result<Option<Counter>, Unreadable> {
    let direct = match version {
        Version::V4 => Listener::DIRECT_V4,
        Version::V6 => Listener::DIRECT_V6,
    };
    if !listener.has(direct) {
        return Ok(Some(Counter::ToDaemonService));
    }
    let segment = &scratch.segment;
    if !segment.is_plain_syn() || !segment::is_plain(segment, version) {
        return Ok(Some(Counter::ToDaemonSyn));
    }
    if !maps::has_room(host) {
        return Ok(Some(Counter::ToDaemonFull));
    }
    if maps::is_fragmented(segment.tuple.addresses()[0]) {
        return Ok(Some(Counter::ToDaemonFragments));
    }
    options::read(ctx, scratch)?;
    let Options { others, mss, .. } = scratch.options;
    if others != 0 || segment_size(mss, version) < least_segment(version) {
        return Ok(Some(Counter::ToDaemonSyn));
    }
    Ok(None)
}

/// Of RFC 9293, unless the SYN says another one.
#[inline(always)]
const fn segment_size(said: u32, version: Version) -> u32 {
    match (said, version) {
        (0, Version::V4) => 536,
        (0, Version::V6) => 1220,
        (said, _) => said,
    }
}

/// The kernel makes no connection with smaller ones.
#[inline(always)]
const fn least_segment(version: Version) -> u32 {
    match version {
        Version::V4 => 536,
        Version::V6 => 1220,
    }
}

/// What both sides can.
#[inline(always)]
fn agree(options: &Options, host: &Host, version: Version) -> Agreed {
    let scale = match (options.scale, host.scale) {
        (0, _) | (_, Host::NO_SCALE) => None,
        (scale, _) => Some((scale - 1) as u8),
    };
    Agreed {
        mss: segment_size(options.mss, version) as u16,
        scale,
        sack: options.sack & host.sack != 0,
        timestamps: options.timestamps & host.timestamps != 0,
    }
}

/// The numbers of the answer: of a cookie, or of an entry in the pending table. False: there is no room
/// for it. A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn number(segment: &Segment, listener: &Listener, bits: u32, numbers: &mut Numbers) -> bool {
    let now = clock::nanoseconds();
    let asked = Asked {
        tuple: &segment.tuple,
        service: listener.service(),
        sequence: segment.seq,
    };
    if Agreed::from_bits(bits).timestamps {
        *numbers = asked.numbers(maps::mac, bits, listener.tick(seconds(now)));
        return true;
    }
    // Nobody can know this one: the time is finer than anybody could tell from outside.
    *numbers = asked.numbers(maps::mac, bits, now as u32 ^ (now >> 32) as u32);
    remember(segment, seconds(now), numbers)
}

/// In the pending table; false if there is no room. The same SYN again gets the same answer.
#[inline(always)]
fn remember(segment: &Segment, now: u32, numbers: &mut Numbers) -> bool {
    let tuple = &segment.tuple;
    let known = maps::pending(tuple);
    if let Some(known) = known {
        let age = now.wrapping_sub(known.since);
        if known.theirs == segment.seq && age < Pending::LIFE {
            numbers.sequence = known.ours;
            return true;
        }
        if age < Pending::YOUNG {
            return false;
        }
    }
    let pending = Pending {
        theirs: segment.seq,
        ours: numbers.sequence,
        since: now,
    };
    maps::insert_pending(tuple, &pending, known.is_none())
}
