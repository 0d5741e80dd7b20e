//! Who may connect, and to what.

use core::ptr::from_ref;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, SockMap, lpm_trie::Key},
    programs::SkLookupContext,
};
use proxy_common::{
    Addr, Endpoint, Guarded, Listed, Listener, MAX_GUARDED, MAX_LISTED, MAX_LISTENERS, MAX_LOCALS,
    PORT_WORDS, datagram, port_bit,
};

use super::{load_word, store_word};
use crate::{clock, ctx::Version};

type List<const N: usize> = LpmTrie<Listed<N>, u32>;

#[map(name = "allow4")]
static ALLOW4: List<1> = LpmTrie::pinned(MAX_LISTED, 0);
#[map(name = "allow6")]
static ALLOW6: List<4> = LpmTrie::pinned(MAX_LISTED, 0);
/// Clients that no connection is made for.
#[map(name = "deny4")]
static DENY4: List<1> = LpmTrie::pinned(MAX_LISTED, 0);
#[map(name = "deny6")]
static DENY6: List<4> = LpmTrie::pinned(MAX_LISTED, 0);
/// How often a list was changed, which who changes one counts up afterwards.
#[map(name = "list_changes")]
static LIST_CHANGES: Array<u32> = Array::pinned(1, 0);
#[map(name = "listeners")]
static LISTENERS: HashMap<Endpoint, Listener> = HashMap::with_max_entries(MAX_LISTENERS, 0);
/// The address of each device that a service is guarded at.
#[map(name = "guarded")]
static GUARDED: HashMap<Guarded, u64> = HashMap::with_max_entries(MAX_GUARDED, 0);
#[map(name = "sockets")]
static SOCKETS: SockMap = SockMap::with_max_entries(MAX_LISTENERS, 0);
/// A bit for each port that a service listens at.
#[map(name = "ports")]
static PORTS: Array<u32> = Array::with_max_entries(PORT_WORDS, 0);
/// This namespace's own addresses; those that nobody elsewhere reaches a service at, as broadcast and loopback ones,
/// have the value 0.
#[map(name = "locals")]
static LOCALS: HashMap<Addr, u32> = HashMap::with_max_entries(MAX_LOCALS, 0);
/// Networks that are this namespace's own by a route, IPv4's as mapped ones; the value says nothing.
#[map(name = "local_nets")]
static LOCAL_NETS: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(MAX_LOCALS, 0);
/// When something was last seen to listen at a target of each listener, in nanoseconds of the kernel's
/// coarse clock.
#[map(name = "up")]
static UP: Array<u64> = Array::with_max_entries(MAX_LISTENERS, 0);
/// When this CPU last logged a refusal, in nanoseconds of the same clock.
#[map(name = "last_log")]
static LAST_LOG: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What listens at an address of this namespace: right there, or at the wildcard of its family.
#[inline(always)]
pub fn listener_at(local: &Endpoint) -> Option<&'static Listener> {
    // SAFETY: nothing writes a listener in place; a replaced value is a new element.
    at_or_any(local, |at| unsafe { LISTENERS.get(at) })
}

/// The address of a device where a service is guarded.
#[inline(always)]
pub fn guarded(at: &Guarded) -> Option<u64> {
    // SAFETY: one word, which the daemon replaces whole.
    unsafe { GUARDED.get(at) }.copied()
}

/// What is right there, or at the wildcard of its family.
#[inline(always)]
pub(super) fn at_or_any<T>(
    local: &Endpoint,
    at: impl Fn(&Endpoint) -> Option<&'static T>,
) -> Option<&'static T> {
    let any = |addr| at(&Endpoint::new(addr, local.port() as u16));
    if let Some(exact) = at(local) {
        return Some(exact);
    }
    if local.addr().v4().is_some()
        && let Some(listener) = any(Version::V4.any())
    {
        return Some(listener);
    }
    // A listener on [::] hears IPv4 as well, unless an IPv4 one is there.
    any(Version::V6.any())
}

#[inline(always)]
pub fn last_up(listener: &Listener) -> u64 {
    load_word(UP.get_ptr(listener.socket()))
}

#[inline(always)]
pub fn set_up(listener: &Listener, now: u64) {
    store_word(UP.get_ptr_mut(listener.socket()), now);
}

/// Hands the connection to the socket at `listener`'s index; false when none is there.
#[inline(always)]
pub fn assign(ctx: &SkLookupContext, listener: &Listener) -> bool {
    SOCKETS
        .redirect_sk_lookup(ctx, listener.socket(), 0)
        .is_ok()
}

/// Whether a service listens at this port.
#[inline(always)]
pub fn is_served(port: u16) -> bool {
    has_port(port_bit(port))
}

#[inline(always)]
pub(super) fn has_port((word, bit): (u32, u32)) -> bool {
    PORTS.get(word).is_some_and(|bits| bits >> bit & 1 != 0)
}

/// What is known of an address that this namespace has: whether a service there can be reached from elsewhere.
#[inline(always)]
pub fn is_local(addr: &Addr) -> Option<bool> {
    // SAFETY: one word, which the daemon replaces whole.
    unsafe { LOCALS.get(addr) }.map(|unicast| *unicast != 0)
}

/// Whether an address is this namespace's own, be it by a route alone.
#[inline(always)]
pub fn is_own(addr: &Addr) -> bool {
    is_own_once(addr)
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "is_own")]
#[inline(never)]
extern "C" fn is_own_once(addr: *const Addr) -> bool {
    if addr.is_null() {
        return false;
    }
    // SAFETY: of the caller's, which the verifier has asked about. Linux 6.1 takes a key from this stack, and not from
    // there.
    let net = Net::of(unsafe { addr.read_volatile() });
    is_local(&net.addr).is_some() || net.is_by_route()
}

/// The key of a trie, of which the address is the key of a table: both in little room.
#[repr(C)]
struct Net {
    bits: u32,
    addr: Addr,
}

impl Net {
    #[inline(always)]
    const fn of(addr: Addr) -> Self {
        let bits = u32::BITS * addr.words().len() as u32;
        Self { bits, addr }
    }

    #[inline(always)]
    fn is_by_route(&self) -> bool {
        // SAFETY: the same fields, and nothing between them.
        let key = unsafe { &*from_ref(self).cast::<Key<Addr>>() };
        LOCAL_NETS.get(key).is_some()
    }
}

/// Whether a service there can be reached from elsewhere.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn is_reached(addr: &Addr) -> bool {
    is_local(addr).unwrap_or_else(|| Net::of(*addr).is_by_route())
}

#[inline(always)]
pub fn allows(service: u32, balancer: &Addr) -> bool {
    has(&ALLOW4, &ALLOW6, service, balancer)
}

/// Of now. Whoever looks into a list has to have it before.
#[inline(always)]
pub fn stamp(now: u32) -> u32 {
    datagram::stamp(now, load_word(LIST_CHANGES.get_ptr(0)))
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn denies(service: u32, client: &Addr) -> bool {
    has(&DENY4, &DENY6, service, client)
}

#[inline(always)]
fn has(v4: &List<1>, v6: &List<4>, service: u32, addr: &Addr) -> bool {
    match addr.v4() {
        Some(addr) => v4.get(exact(service, [addr])).is_some(),
        None => v6.get(exact(service, addr.words())).is_some(),
    }
}

#[inline(always)]
fn exact<const N: usize>(service: u32, addr: [u32; N]) -> Key<Listed<N>> {
    let bits = Listed::<N>::prefix_len(u32::BITS * N as u32);
    Key::new(bits, Listed::new(service, addr))
}

/// True at most once a second on each CPU.
#[inline(always)]
pub fn may_log() -> bool {
    const SECOND: u64 = 1_000_000_000;
    let Some(last) = LAST_LOG.get_ptr_mut(0) else {
        return false;
    };
    let now = clock::nanoseconds();
    // SAFETY: this CPU's own slot, and a program isn't preempted by itself on one CPU.
    unsafe {
        if now.wrapping_sub(*last) < SECOND {
            return false;
        }
        *last = now;
    }
    true
}
