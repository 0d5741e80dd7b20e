//! A SYN to a service is refused where it comes in if nobody is there to serve it, so that a
//! balancer's plain check of the port sees what a client would.

use core::ffi::c_void;

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use proxy_common::{Addr, Counter, Endpoint, Life, Listener, flow::Tuple};

use crate::{ctx::Version, lookup::socket::listens, maps};

/// The listener of a SYN that is to be served, or why it is refused. None: it is no SYN to a service from
/// one of its balancers, and what becomes of it is for others to say.
#[inline(always)]
pub fn guard(
    ctx: &TcContext,
    version: Version,
    tuple: &Tuple,
) -> Result<Option<&'static Listener>, Counter> {
    let Some(listener) = listener(&tuple.destination()) else {
        return Ok(None);
    };
    let [balancer, _] = tuple.addresses();
    if !maps::allows(listener.service(), balancer) {
        return Ok(None);
    }
    if !daemon_is_up() {
        return Err(Counter::DaemonDown);
    }
    if !app_is_up(ctx, listener, &from(version, tuple)) {
        return Err(Counter::AppDown);
    }
    Ok(Some(listener))
}

/// The sockets are asked once in a tick of the kernel's clock.
#[inline(always)]
fn app_is_up(ctx: &TcContext, listener: &Listener, from: &Sources) -> bool {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if listener.has(Listener::REMOTE) || maps::last_up(listener) == now {
        return true;
    }
    let is_up = any_listens(ctx, listener, from) || listener.listens_on_lo();
    if is_up {
        maps::set_up(listener, now);
    }
    is_up
}

/// Looks for applications that are bound to `lo`: a program at another device doesn't find them.
/// The program runs at `lo`.
#[inline(always)]
pub fn look_at_lo(ctx: &TcContext) {
    let mut skb = ctx.skb.skb;
    maps::for_each_listener(look_for_app, &mut skb);
}

unsafe extern "C" fn look_for_app(
    _map: *mut c_void,
    _at: *const Endpoint,
    listener: *mut Listener,
    skb: *mut *mut __sk_buff,
) -> i64 {
    // SAFETY: the kernel's arguments, and what `look_at_lo` gave it. Of a listener only one word is
    // written in place, by this one program.
    let (listener, ctx) = unsafe { (&mut *listener, TcContext::new(*skb)) };
    let listens = any_listens(&ctx, listener, &SOMEBODY);
    listener.set_listens_on_lo(listens);
    0
}

/// What listens at `at`, an address that is this namespace's own.
#[inline(always)]
pub fn listener(at: &Endpoint) -> Option<&'static Listener> {
    if maps::is_local(&at.addr()) != Some(true) {
        return None;
    }
    let port = at.port() as u16;
    let any = |addr| maps::listener(&Endpoint::new(addr, port));
    if let Some(exact) = maps::listener(at) {
        return Some(exact);
    }
    if at.addr().v4().is_some()
        && let Some(listener) = any(Addr::from_v4(0))
    {
        return Some(listener);
    }
    // A listener on [::] hears IPv4 as well, unless an IPv4 one is there.
    any(Addr::from_v6([0; 4]))
}

#[inline(always)]
pub fn daemon_is_up() -> bool {
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    maps::life(Life::Closing) == 0 && now.saturating_sub(maps::life(Life::Beat)) < Life::PATIENCE
}

/// Sources to ask for listeners with, of IPv4 and of IPv6. Which client there will be, nobody knows
/// yet: any address that is no one else's will do.
struct Sources {
    v4: Endpoint,
    v6: Endpoint,
}

const SOMEBODY: Sources = Sources {
    // of the networks for documentation
    v4: Endpoint::new(Addr::from_v4(u32::from_ne_bytes([192, 0, 2, 1])), 1),
    v6: Endpoint::new(
        Addr::from_v6([u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, 1]),
        1,
    ),
};

/// The balancer itself, in its own family: listeners that share an address are picked by it.
#[inline(always)]
const fn from(version: Version, tuple: &Tuple) -> Sources {
    match version {
        Version::V4 => Sources {
            v4: tuple.source(),
            ..SOMEBODY
        },
        Version::V6 => Sources {
            v6: tuple.source(),
            ..SOMEBODY
        },
    }
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn any_listens(ctx: &TcContext, listener: &Listener, from: &Sources) -> bool {
    let (v4, v6) = (listener.target4(), listener.target6());
    v4.is_set() && listens(ctx, Version::V4, &Tuple::new(from.v4, v4.target))
        || v6.is_set() && listens(ctx, Version::V6, &Tuple::new(from.v6, v6.target))
}
