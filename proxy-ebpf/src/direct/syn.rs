//! The balancer's SYN.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use proxy_common::{
    Counter, Host, Listener,
    cookie::{Agreed, Asked, Numbers},
    flow::{Pending, seconds},
};

use super::{
    Failed, Verdict,
    answer::{self, Answer},
};
use crate::{
    admit::guard::{self, guard},
    ctx::{self, Link, Version},
    lookup::{
        route,
        socket::{Presence, presence},
    },
    maps::{self, Scratch},
    wire::{
        options::{self, Options},
        segment::{self, Kind, Segment},
    },
};

/// Where direct connections aren't to be had, SYNs are only refused if nobody is there.
#[inline(always)]
pub fn refuse(ctx: &TcContext, link: Link) -> Result<Verdict, Failed> {
    if !ctx::is_for_host(ctx) {
        return Ok(Verdict::Foreign);
    }
    let Some(version) = ctx::version(ctx) else {
        return Ok(Verdict::Foreign);
    };
    let scratch = maps::scratch().ok_or(Failed)?;
    let kind = segment::read(ctx, version, link, &mut scratch.segment);
    let port = u16::from_be(scratch.segment.tuple.ports()[1]);
    if kind != Kind::Tcp || !maps::is_served(port) || !scratch.segment.is_first() {
        return Ok(Verdict::Foreign);
    }
    match admitted(ctx, version, link, scratch)? {
        Ok(_) => Ok(Verdict::Foreign),
        Err(refused) => Ok(refused),
    }
}

/// The listener of an admitted SYN, or what becomes of it otherwise.
#[inline(always)]
fn admitted(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Result<&'static Listener, Verdict>, Failed> {
    let why = match guard(ctx, version, &scratch.segment.tuple) {
        Ok(guard::Verdict::Admitted(listener)) => return Ok(Ok(listener)),
        Ok(guard::Verdict::Foreign) => return Ok(Err(Verdict::Foreign)),
        Err(guard::Reason::AppDown) => Counter::AppDown,
        Err(guard::Reason::DaemonDown) => Counter::DaemonDown,
    };
    let Some(way) = route::way(ctx, version, &scratch.segment.tuple.reversed()) else {
        return Ok(Err(Verdict::Foreign));
    };
    if !segment::is_plain(&scratch.segment, version) || scratch.segment.payload > 0 {
        return Ok(Err(Verdict::Foreign));
    }
    options::read(ctx, scratch)?;
    answer::send(ctx, version, link, scratch, &Answer::Reset)?;
    let out = answer::out(ctx, link, &way)?;
    Ok(Err(Verdict::Answer { out, why }))
}

#[inline(always)]
pub fn syn(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
) -> Result<Verdict, Failed> {
    let listener = match admitted(ctx, version, link, scratch)? {
        Ok(listener) => listener,
        Err(refused) => return Ok(refused),
    };
    let (Some(host), Some(secret)) = (maps::host(), maps::secret()) else {
        return Ok(Verdict::ToDaemon(Counter::ToDaemonService));
    };
    if let Some(why) = unfit(ctx, version, scratch, listener, host)? {
        return Ok(Verdict::ToDaemon(why));
    }
    // The stack knows how to follow a connection that is in TIME_WAIT; two ends of one tuple there
    // can't be.
    if maps::was_given(&scratch.segment.tuple)
        && presence(ctx, version, &scratch.segment.tuple) != Presence::Gone
    {
        return Ok(Verdict::ToDaemon(Counter::ToDaemonTaken));
    }
    let way = route::way(ctx, version, &scratch.segment.tuple.reversed());
    // By any other device, anybody on that link could hear the answer.
    let Some(way) = way.filter(|way| way.device == ctx::device(ctx)) else {
        return Ok(Verdict::ToDaemon(Counter::ToDaemonRoute));
    };
    let agreed = agree(&scratch.options, host, version);
    let mut numbers = Numbers {
        sequence: 0,
        timestamp: 0,
    };
    if !number(
        &scratch.segment,
        listener,
        agreed.to_bits(),
        secret,
        &mut numbers,
    ) {
        return Ok(Verdict::ToDaemon(Counter::ToDaemonPending));
    }
    let answer = Answer::SynAck {
        agreed,
        numbers,
        mtu: way.mtu,
        scale: host.scale as u8,
    };
    answer::send(ctx, version, link, scratch, &answer)?;
    Ok(Verdict::Answer {
        out: answer::out(ctx, link, &way)?,
        why: Counter::DirectSyn,
    })
}

/// Why this SYN's connection can't be direct. Afterwards its options are read.
#[inline(always)]
fn unfit(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    listener: &Listener,
    host: &Host,
) -> Result<Option<Counter>, Failed> {
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
    if maps::flows() + maps::daemon_connections() >= host.most.into() {
        return Ok(Some(Counter::ToDaemonFull));
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
fn number(
    segment: &Segment,
    listener: &Listener,
    bits: u32,
    secret: &[u64; 2],
    numbers: &mut Numbers,
) -> bool {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let asked = Asked {
        tuple: &segment.tuple,
        service: listener.service(),
        sequence: segment.seq,
    };
    if Agreed::from_bits(bits).timestamps {
        *numbers = asked.numbers(secret, bits, listener.tick(seconds(now)));
        return true;
    }
    // Nobody can know this one: the time is finer than anybody could tell from outside.
    *numbers = asked.numbers(secret, bits, now as u32 ^ (now >> 32) as u32);
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
