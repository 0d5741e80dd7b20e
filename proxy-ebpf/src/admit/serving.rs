//! A SYN to a service is refused where it comes in if nobody is there to serve it, so that a
//! balancer's plain check of the port sees what a client would.

use aya_ebpf::programs::TcContext;
use proxy_common::{Addr, Counter, Endpoint, Life, Listener, flow::Tuple};

use crate::{clock, ctx::Version, lookup::socket::listens, maps};

/// The listener of a SYN that is to be served, or why it is refused. None: it is no SYN to a service from
/// one of its balancers, and what becomes of it is for others to say.
#[inline(always)]
pub fn serving(
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
    if listener.has(Listener::DRAINED) {
        return Err(Counter::Drained);
    }
    if !app_is_up(ctx, listener, &from(version, tuple)) {
        return Err(Counter::AppDown);
    }
    Ok(Some(listener))
}

/// The sockets are asked once in a tick of the kernel's clock.
#[inline(always)]
fn app_is_up(ctx: &TcContext, listener: &Listener, from: &Sources) -> bool {
    let now = clock::nanoseconds();
    let last = maps::last_up(listener);
    if listener.has(Listener::REMOTE | Listener::BOUND) || last == now {
        return true;
    }
    let is_up = any_listens(ctx, listener, from);
    if is_up {
        maps::set_up(listener, now);
    }
    is_up
}

/// What listens at `at`, an address that is this namespace's own.
#[inline(always)]
pub fn listener(at: &Endpoint) -> Option<&'static Listener> {
    if maps::is_local(&at.addr()) != Some(true) {
        return None;
    }
    maps::listener_at(at)
}

#[inline(always)]
pub fn daemon_is_up() -> bool {
    let now = clock::nanoseconds();
    maps::life(Life::Closing) == 0 && now.saturating_sub(maps::life(Life::Beat)) < Life::PATIENCE
}

/// Sources to ask for listeners with, of IPv4 and of IPv6. Which client there will be, nobody knows
/// yet: any address that is no one else's will do.
type Sources = [Endpoint; 2];

const SOMEBODY: Sources = {
    let [v4, v6] = Addr::NOBODY;
    [Endpoint::new(v4, 1), Endpoint::new(v6, 1)]
};

/// The balancer itself, in its own family: listeners that share an address are picked by it.
#[inline(always)]
const fn from(version: Version, tuple: &Tuple) -> Sources {
    let [v4, v6] = SOMEBODY;
    match version {
        Version::V4 => [tuple.source(), v6],
        Version::V6 => [v4, tuple.source()],
    }
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn any_listens(ctx: &TcContext, listener: &Listener, [from4, from6]: &Sources) -> bool {
    let (v4, v6) = (listener.target4(), listener.target6());
    v4.is_set() && listens(ctx, Version::V4, &Tuple::new(*from4, v4.target))
        || v6.is_set() && listens(ctx, Version::V6, &Tuple::new(*from6, v6.target))
}
