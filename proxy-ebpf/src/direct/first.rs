//! The first data segment: a handshake's proof and a header, of which a connection is made.

use aya_ebpf::programs::TcContext;
use proxy_common::{
    Counter, Life, Listener, Steered,
    claim::Answer,
    cookie::{Agreed, Answered, Asked, Numbers},
    flow::{Down, Pending, Tuple, flag},
};

use super::{FAILED, places, sweep, to_daemon};
use crate::{
    admit::serving,
    clock,
    ctx::{self, Link, Unreadable, Version},
    enter::enter,
    lookup::{
        kfunc::{self, Attrs},
        socket::{Presence, from_nobody, listens, presence},
    },
    maps::{self, Scratch},
    verdict::Verdict,
    wire::{
        cut, options, proxy, rewrite,
        segment::{self, Segment},
    },
};

/// `is_again`: it was here in time, and nothing came of it.
#[inline(always)]
pub fn first(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    is_again: bool,
) -> Result<Verdict, Verdict> {
    let listener = addressed(&scratch.segment).ok_or(Verdict::FOREIGN)?;
    options::read(ctx, scratch)?;
    let judged = judge(scratch, listener);
    if is_daemons(ctx, version, &scratch.segment.tuple, judged) {
        return Ok(Verdict::FOREIGN);
    }
    match judged {
        Judged::Ours => {}
        Judged::Late if is_again => {}
        Judged::Later => return Ok(Verdict::drop(Counter::DirectAhead)),
        Judged::Late => {
            maps::count(Counter::DirectLate);
            return Ok(Verdict::FOREIGN);
        }
        Judged::Others => {
            // As long as it is busy, and for as long after that as its end may be remembered.
            maps::note_given(&scratch.segment.tuple);
            return Ok(Verdict::FOREIGN);
        }
    }
    let segment = &scratch.segment;
    if segment.rst() {
        return Ok(Verdict::drop(Counter::DirectSilent));
    }
    if segment.payload == 0 && !segment.fin() {
        return Ok(Verdict::drop(Counter::DirectHandshake));
    }
    if !is_again && maps::is_spent(segment.ack, segment.seq) {
        return Ok(spent());
    }
    match connect(ctx, version, link, scratch, listener, is_again) {
        Ok(verdict) => Ok(verdict),
        Err(Reason::Failed) => Ok(FAILED),
        Err(Reason::Spent) => Ok(spent()),
        Err(Reason::ToDaemon(why)) => {
            give(ctx, version, scratch);
            Ok(to_daemon(&scratch.segment.tuple, why))
        }
    }
}

/// One that is in IP fragments, of which this is the first, can't be read here. The stack, which puts it
/// together, refuses it, as it has not shaken hands; its balancer's next connections are the daemon's.
#[inline(always)]
pub fn in_fragments(ctx: &TcContext, scratch: &mut Scratch) {
    let Some(listener) = addressed(&scratch.segment) else {
        return;
    };
    if options::read(ctx, scratch).is_ok() && judge(scratch, listener) == Judged::Ours {
        maps::note_fragments(scratch.segment.tuple.addresses()[0]);
    }
}

/// The listener that an allowed balancer's segment is for, unless it is a SYN.
#[inline(always)]
fn addressed(segment: &Segment) -> Option<&'static Listener> {
    if !segment.acks() {
        return None;
    }
    let listener = serving::listener(&segment.tuple.destination())?;
    maps::allows(listener.service(), segment.tuple.addresses()[0]).then_some(listener)
}

/// Whether the daemon has the connection already.
#[inline(always)]
fn is_daemons(ctx: &TcContext, version: Version, tuple: &Tuple, judged: Judged) -> bool {
    let may_be = match judged {
        Judged::Others => false,
        Judged::Ours => maps::was_given(tuple),
        // However long ago it was given.
        Judged::Later | Judged::Late => true,
    };
    may_be && presence(ctx, version, tuple) == Presence::There
}

/// A late copy: its connection is over.
#[inline(always)]
fn spent() -> Verdict {
    maps::count(Counter::DirectSpent);
    Verdict::FOREIGN
}

/// Of whose handshake a segment is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    Others,
    Ours,
    /// Ours, but not the first one.
    Later,
    /// Ours, but too late.
    Late,
}

/// Whether the segment is the first one of a handshake of ours. A function of its own, as a program's
/// stack has 512 bytes.
#[inline(never)]
fn judge(scratch: &Scratch, listener: &Listener) -> Judged {
    let (segment, options) = (&scratch.segment, &scratch.options);
    let now = clock::seconds();
    let ours = segment.ack.wrapping_sub(1);
    let theirs = segment.seq.wrapping_sub(1);
    if Agreed::from_bits(ours).timestamps {
        if maps::secret().is_none() {
            return Judged::Others;
        }
        let asked = Asked {
            tuple: &segment.tuple,
            service: listener.service(),
            sequence: theirs,
        };
        let answer = Numbers {
            sequence: ours,
            timestamp: options.echo,
        };
        return match asked.judge(maps::mac, answer, listener.tick(now)) {
            Answered::Others => Judged::Others,
            Answered::Later => Judged::Later,
            Answered::Ours { age } if age > listener.header_ticks() => Judged::Late,
            Answered::Ours { .. } => Judged::Ours,
        };
    }
    match maps::pending(&segment.tuple) {
        Some(pending) if pending.ours == ours => {
            let age = now.wrapping_sub(pending.since);
            if pending.theirs != theirs {
                Judged::Later
            } else if age > Pending::LIFE || listener.tick(age) > listener.header_ticks() {
                Judged::Late
            } else {
                Judged::Ours
            }
        }
        _ => Judged::Others,
    }
}

/// One word, as functions that aren't inlined give no more back.
enum Reason {
    Failed,
    /// Its connection has been made, and is over.
    Spent,
    ToDaemon(Counter),
}

impl From<Unreadable> for Reason {
    fn from(Unreadable: Unreadable) -> Self {
        Self::Failed
    }
}

#[inline(always)]
fn connect(
    ctx: &TcContext,
    version: Version,
    link: Link,
    scratch: &mut Scratch,
    listener: &Listener,
    is_again: bool,
) -> Result<Verdict, Reason> {
    if scratch.segment.payload == 0 {
        return Err(Reason::ToDaemon(Counter::ToDaemonSilent));
    }
    if !segment::is_plain(&scratch.segment, version) {
        return Err(Reason::ToDaemon(Counter::ToDaemonSplit));
    }
    proxy::read(ctx, link, scratch, listener).map_err(|reason| {
        Reason::ToDaemon(match reason {
            proxy::Reason::Split => Counter::ToDaemonSplit,
            proxy::Reason::Other => Counter::ToDaemonHeader,
        })
    })?;
    let behind = scratch.segment.seq.wrapping_add(scratch.proxy.len);
    // One that comes again had no socket, or has just got one, which throws this segment away.
    if !is_again && maps::is_spent(scratch.segment.ack, behind) {
        return Err(Reason::Spent);
    }
    let steered = fit(version, scratch, listener).map_err(Reason::ToDaemon)?;
    let to_app = Tuple::new(scratch.proxy.source, steered.target);
    // Where a service listens as well, a client may have a balancer's address.
    let to_app = match maps::is_served(steered.target.port() as u16) {
        true => from_nobody(&to_app),
        false => to_app,
    };
    if !listens(ctx, version, &to_app) {
        return Err(Reason::ToDaemon(Counter::ToDaemonListener));
    }
    insert(ctx, version, scratch, listener, steered)?;
    count(scratch, is_again)?;
    if !assign(ctx, version, scratch, &to_app) {
        return Err(match places::undo_in_scratch() {
            true => Reason::ToDaemon(Counter::ToDaemonListener),
            // It is looked at again when the segment comes again.
            false => Reason::Failed,
        });
    }
    maps::count_made();
    ctx::ensure_ethernet(ctx, link, version)?;
    cut::cut(ctx, version, scratch, scratch.proxy.len)?;
    if scratch.proxy.tlvs != 0 {
        maps::keep_header(&scratch.app, &scratch.line);
    }
    rewrite::apply(ctx, version, scratch.segment.at, &scratch.up.rewrite)?;
    Ok(enter(ctx, Counter::DirectOpened)?)
}

/// Where the client's connection goes, or why it can't be direct.
#[inline(always)]
fn fit<'a>(
    version: Version,
    scratch: &Scratch,
    listener: &'a Listener,
) -> Result<&'a Steered, Counter> {
    let header = &scratch.proxy;
    let client = header.source.addr();
    let (direct, steered) = match version {
        Version::V4 => (Listener::DIRECT_V4, listener.target4()),
        Version::V6 => (Listener::DIRECT_V6, listener.target6()),
    };
    if !listener.has(direct) {
        return Err(Counter::ToDaemonService);
    }
    if client.v4().is_some() != (version == Version::V4) || !steered.is_set() {
        return Err(Counter::ToDaemonFamily);
    }
    if client.is_martian()
        || header.source.port() == 0
        || maps::is_own(&client)
        || maps::is_steer(&client)
    {
        return Err(Counter::ToDaemonClient);
    }
    if maps::denies(listener.service(), &client) {
        return Err(Counter::ToDaemonDenied);
    }
    if u64::from(scratch.segment.payload - header.len) > cut::MOST {
        return Err(Counter::ToDaemonSplit);
    }
    match maps::host() {
        Some(host) if maps::has_room(host) => Ok(steered),
        _ => Err(Counter::ToDaemonFull),
    }
}

/// Both entries, before the socket is there: no segment of it may find none.
#[inline(never)]
fn insert(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    listener: &Listener,
    steered: &Steered,
) -> Result<(), Reason> {
    const BUSY: Reason = Reason::ToDaemon(Counter::ToDaemonBusy);
    const FULL: Reason = Reason::ToDaemon(Counter::ToDaemonFull);
    fill(scratch, listener, steered)?;
    let before = presence(ctx, version, &scratch.up.rewrite.to);
    if before == Presence::There {
        return Err(BUSY);
    }
    if before == Presence::TimeWait {
        // The kernel makes no second socket beside that one, but for a SYN it makes way.
        sweep::forget_left(ctx, version, &scratch.app);
        return Err(BUSY);
    }
    if !maps::insert_up(&scratch.segment.tuple, &scratch.up) {
        // Another CPU may have the same segment.
        let is_there = maps::find_up(&scratch.segment.tuple).is_some();
        return Err(if is_there { Reason::Failed } else { FULL });
    }
    if !maps::insert_down(&scratch.app, &scratch.down) {
        // What is left of the client's last connection, or another one that is just being made.
        if !sweep::forget_left(ctx, version, &scratch.app) {
            maps::forget_up(&scratch.segment.tuple);
            return Err(BUSY);
        }
        maps::insert_up(&scratch.segment.tuple, &scratch.up);
        if !maps::insert_down(&scratch.app, &scratch.down) {
            maps::forget_up(&scratch.segment.tuple);
            return Err(FULL);
        }
    }
    Ok(())
}

/// For its balancer and its client, as far as there may be one more. The daemon knows whether others have just ended.
#[inline(always)]
fn count(scratch: &mut Scratch, is_again: bool) -> Result<(), Reason> {
    const DONE: u32 = Answer::Done as u32;
    const BUSY: u32 = Answer::Busy as u32;
    scratch.claim.is_again = is_again.into();
    scratch.claim.counted = 0;
    let why = match places::claim_in_scratch() {
        DONE => return Ok(()),
        BUSY => Reason::Failed,
        _ => Reason::ToDaemon(Counter::ToDaemonLimit),
    };
    maps::forget_tuples(&scratch.segment.tuple, &scratch.app, false);
    Err(why)
}

/// Both entries, and the tuple of the application's packets. A function of its own, as a program's
/// stack has 512 bytes.
#[inline(never)]
fn fill(scratch: &mut Scratch, listener: &Listener, steered: &Steered) -> Result<(), Unreadable> {
    let Scratch {
        segment,
        proxy,
        up,
        down,
        app,
        ..
    } = scratch;
    let is_pending = !Agreed::from_bits(segment.ack.wrapping_sub(1)).timestamps;
    let pending = if is_pending { flag::PENDING } else { 0 };
    let kept = if proxy.tlvs != 0 { flag::KEPT } else { 0 };
    up.rewrite.to = Tuple::new(proxy.source, steered.steer);
    up.first = segment.seq;
    up.confirmed = 0;
    *app = up.rewrite.to.reversed();
    *down = Down::default();
    down.rewrite.to = segment.tuple.reversed();
    down.up_base = segment.seq.wrapping_add(proxy.len);
    down.down_base = segment.ack;
    down.flags = pending | kept;
    down.service = listener.service();
    down.opened = clock::seconds();
    down.number = maps::life(Life::Made).wrapping_add(1);
    down.header = proxy.version as u16;
    rewrite::prepare(&mut up.rewrite, &segment.tuple)?;
    rewrite::prepare(&mut down.rewrite, app)
}

/// Gives the segment as it is to a listener of the daemon. If that doesn't take it, the stack answers.
#[inline(always)]
fn give(ctx: &TcContext, version: Version, scratch: &Scratch) {
    let _ = assign(ctx, version, scratch, &scratch.segment.tuple);
}

/// Makes the segment a connection of the listener that hears one of `tuple`; false: it is as it was.
#[inline(never)]
fn assign(ctx: &TcContext, version: Version, scratch: &Scratch, tuple: &Tuple) -> bool {
    let Some(host) = maps::host() else {
        return false;
    };
    let agreed = Agreed::from_bits(scratch.segment.ack.wrapping_sub(1));
    let options = &scratch.options;
    let mut attrs = Attrs::new(&agreed, host, options.value, options.echo);
    kfunc::assign(ctx, version, tuple, &mut attrs)
}
