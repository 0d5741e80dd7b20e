//! The end of direct connections. It is believed of the application's socket, not of the network: an
//! entry goes some time after its socket has gone, so that late segments still find their way.

use core::ffi::c_void;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use proxy_common::{
    Addr, Life,
    flow::{Down, MAX_FLOWS, Pending, Told, Tuple, flag, told},
    limits::Limits,
};

use super::places;
use crate::{
    clock,
    ctx::Version,
    lookup::socket::{Presence, presence},
    maps,
};

/// How long entries stay behind their sockets: a last acknowledgment may have to be given again while
/// the application's end is in TIME_WAIT.
struct Linger {
    time_wait: u16,
    /// Without any socket so far, as of an application whose queue is full: a header that came in time
    /// shall not be late when it comes again.
    unseen: u16,
}

impl Linger {
    /// Behind a socket that is gone, as two sweeps have seen. It would answer late segments as the stack
    /// does.
    const GONE: u16 = 1;

    /// The fuller the table, the shorter.
    const fn with(flows: u64) -> Self {
        const HALF: u64 = MAX_FLOWS as u64 / 2;
        const QUARTER: u64 = MAX_FLOWS as u64 / 4;
        let (time_wait, unseen) = match flows {
            HALF.. => (1, 1),
            QUARTER.. => (3, 4),
            _ => (12, 20),
        };
        Self { time_wait, unseen }
    }
}

struct Sweep {
    skb: *mut __sk_buff,
    now: u16,
    linger: Linger,
    /// Whether any service has limits.
    any_is_limited: bool,
    /// How many flows had been made as it began.
    made: u64,
    /// Flows that stay, and those of them whose connection was open by then.
    entries: u64,
    open: u64,
}

/// Looks after each direct connection, and tells the daemon of those that have opened or ended.
#[inline(always)]
pub fn sweep(ctx: &TcContext) {
    let mut sweep = Sweep {
        skb: ctx.skb.skb,
        now: clock::seconds() as u16,
        linger: Linger::with(maps::life(Life::Entries)),
        any_is_limited: maps::limits(Limits::ANY).is_some(),
        made: maps::life(Life::Made),
        entries: 0,
        open: 0,
    };
    maps::for_each_down(look_after, &mut sweep);
    maps::set_life(Life::Entries, sweep.entries);
    // In this order there is for a moment one too many, rather than one too few.
    maps::set_life(Life::Flows, sweep.open);
    maps::set_life(Life::Counted, sweep.made);
}

/// Removes SYNs that nothing came of, and counts each balancer's share anew.
#[inline(always)]
pub fn sweep_pending() {
    let mut now = clock::seconds();
    maps::for_each_share(reset_share, &mut now);
    maps::for_each_pending(expire, &mut now);
}

/// A share that has been nothing for a whole sweep goes.
unsafe extern "C" fn reset_share(
    _map: *mut c_void,
    balancer: *const Addr,
    share: *mut u64,
    _now: *mut u32,
) -> i64 {
    // SAFETY: the kernel's arguments; a plain load and a plain store of one word.
    unsafe {
        if share.read_volatile() == 0 {
            maps::forget_share(&*balancer);
        } else {
            share.write_volatile(0);
        }
    }
    0
}

unsafe extern "C" fn expire(
    _map: *mut c_void,
    tuple: *const Tuple,
    pending: *mut Pending,
    now: *mut u32,
) -> i64 {
    // SAFETY: the kernel's arguments, and what `sweep_pending` gave it.
    let (tuple, pending, now) = unsafe { (&*tuple, &*pending, *now) };
    if now.wrapping_sub(pending.since) > Pending::LIFE {
        maps::forget_pending(tuple);
    } else {
        maps::count_share(tuple.addresses()[0]);
    }
    0
}

unsafe extern "C" fn look_after(
    _map: *mut c_void,
    tuple: *const Tuple,
    flow: *mut Down,
    sweep: *mut Sweep,
) -> i64 {
    // SAFETY: the kernel's arguments, and what `sweep` gave it.
    let (tuple, flow, sweep) = unsafe { (&*tuple, &mut *flow, &mut *sweep) };
    if rests(flow, sweep.now, &sweep.linger) {
        sweep.entries += 1;
        return 0;
    }
    let ctx = TcContext::new(sweep.skb);
    let version = match tuple.addresses()[0].v4() {
        Some(_) => Version::V4,
        None => Version::V6,
    };
    let stays = match presence(&ctx, version, &tuple.reversed()) {
        Presence::There => {
            flow.gone = 0;
            say_open(tuple, flow);
            if sweep.any_is_limited {
                places::count(tuple, flow);
            }
            true
        }
        Presence::TimeWait => {
            flow.told |= told::CLOSED;
            places::release(tuple, flow);
            lingers(tuple, flow, sweep.now, sweep.linger.time_wait)
        }
        Presence::Gone if was_there(flow) => {
            places::release(tuple, flow);
            lingers(tuple, flow, sweep.now, Linger::GONE)
        }
        Presence::Gone => lingers(tuple, flow, sweep.now, sweep.linger.unseen),
    };
    sweep.entries += u64::from(stays);
    // It may pass by those that come meanwhile, so it counts none of them.
    let is_counted = flow.number <= sweep.made;
    sweep.open += u64::from(is_counted && flow.told & told::ENDED == 0 && stays);
    0
}

#[inline(always)]
fn say_open(tuple: &Tuple, flow: &mut Down) {
    if flow.told & told::SEEN == 0 {
        flow.told |= told::SEEN;
        maps::confirm(&flow.rewrite.to.reversed());
    }
    if flow.told & told::OPEN == 0 && maps::tell(tuple, flow, Told::OPENED) {
        flow.told |= told::OPEN;
    }
}

/// Whether a flow is over and has nothing to wait for but its time: its socket needn't be looked for.
#[inline(always)]
const fn rests(flow: &Down, now: u16, linger: &Linger) -> bool {
    let linger = match flow.told & told::CLOSED {
        0 => Linger::GONE,
        _ => linger.time_wait,
    };
    let is_over = flow.told & told::ENDED != 0 && flow.told & told::COUNTED == 0;
    is_over && flow.gone != 0 && now.wrapping_sub(flow.gone) < linger
}

/// Whether a flow without a socket stays.
#[inline(always)]
fn lingers(tuple: &Tuple, flow: &mut Down, now: u16, linger: u16) -> bool {
    if flow.gone == 0 {
        // 0 says that it isn't.
        flow.gone = if now == 0 { 1 } else { now };
    }
    if !say_ended(tuple, flow) || now.wrapping_sub(flow.gone) < linger {
        return true;
    }
    let (up, has_header) = (flow.rewrite.to.reversed(), is_kept(flow));
    !places::remove(&up, tuple, flow, has_header)
}

/// False if it has to be said again. Of what never came to be, nothing is said.
#[inline(always)]
fn say_ended(tuple: &Tuple, flow: &mut Down) -> bool {
    if !flow.was_seen() || flow.told & told::ENDED != 0 {
        return true;
    }
    let is_closed = flow.flags & flag::CLOSED != 0 || flow.told & told::CLOSED != 0;
    let how = if is_closed && flow.flags & flag::RESET == 0 {
        Told::CLOSED
    } else {
        Told::RESET
    };
    let has_told = maps::tell(tuple, flow, how);
    if has_told {
        flow.told |= told::ENDED;
    }
    has_told
}

/// Removes what is left of a connection whose socket is gone, or in TIME_WAIT. False: it can't be counted as over now.
#[inline(never)]
pub fn forget(up: &Tuple, down: &Tuple, presence: Presence) -> bool {
    let Some(flow) = maps::find_down(down) else {
        maps::forget_up(up);
        return true;
    };
    // SAFETY: with its socket gone, only the sweep writes here, the same bits.
    let flow = unsafe { &mut *flow };
    if presence == Presence::TimeWait {
        flow.told |= told::CLOSED;
    }
    say_ended(down, flow);
    places::remove(up, down, flow, is_kept(flow))
}

/// The same by the tuple of the application's packets, if anything is left. False: the connection is
/// there, or may be in a moment, of a segment that is on its way.
#[inline(always)]
pub fn forget_left(ctx: &TcContext, version: Version, down: &Tuple) -> bool {
    let Some(flow) = maps::find_down(down) else {
        return true;
    };
    // SAFETY: what is read here is written before the element is in the map, but for bits that are only
    // ever set.
    let flow = unsafe { &*flow };
    // In this order: what has been there, and isn't now, is over.
    if !was_there(flow) {
        return false;
    }
    let presence = presence(ctx, version, &down.reversed());
    if presence == Presence::There {
        return false;
    }
    forget(&flow.rewrite.to.reversed(), down, presence)
}

/// Whether the application's socket has been there at any time.
#[inline(always)]
pub fn was_there(flow: &Down) -> bool {
    flow.was_seen() || maps::is_spent(flow.down_base, flow.up_base)
}

#[inline(always)]
const fn is_kept(flow: &Down) -> bool {
    flow.flags & flag::KEPT != 0
}
