//! The maps and the constants set at load, behind typed accessors.

use core::ptr::from_ref;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, bpf_sock},
    helpers::bpf_map_update_elem,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, SockHash, SockMap, lpm_trie::Key},
    programs::SkLookupContext,
};
use proxy_common::{
    Addr, Allowed, Counter, Endpoint, Listener, MAX_ALLOWED, MAX_LISTENERS, MAX_TARGETS, Steer,
    counter,
    handover::{Ended, Flow, Handed, MAX_HANDED, PORT_WORDS, port_bit},
};

/// Networks of the steer addresses, set at load.
#[unsafe(no_mangle)]
static STEER4: Global<Steer> = Global::new(Steer::new(Addr::from_v4(0), 0));
#[unsafe(no_mangle)]
static STEER6: Global<Steer> = Global::new(Steer::new(Addr::from_v6([0; 4]), 0));
/// ifindex of the host end of the veth pair.
#[unsafe(no_mangle)]
static DEVICE: Global<u32> = Global::new(0);
/// The spoof namespace's id, as this namespace counts.
#[unsafe(no_mangle)]
static SPOOF_NETNS: Global<u32> = Global::new(0);
/// Whether packets enter the host by `lo` (1) or by the veth itself (0).
#[unsafe(no_mangle)]
static VIA_LO: Global<u32> = Global::new(1);
/// Whether connections are handed over (1) or not (0).
#[unsafe(no_mangle)]
static HANDOVER: Global<u32> = Global::new(0);

#[map(name = "allow4")]
static ALLOW4: LpmTrie<Allowed<1>, u32> = LpmTrie::pinned(MAX_ALLOWED, 0);
#[map(name = "allow6")]
static ALLOW6: LpmTrie<Allowed<4>, u32> = LpmTrie::pinned(MAX_ALLOWED, 0);
#[map(name = "listeners")]
static LISTENERS: HashMap<Endpoint, Listener> = HashMap::with_max_entries(MAX_LISTENERS, 0);
#[map(name = "sockets")]
static SOCKETS: SockMap = SockMap::with_max_entries(MAX_LISTENERS, 0);
#[map(name = "targets")]
static TARGETS: HashMap<Endpoint, Endpoint> = HashMap::with_max_entries(MAX_TARGETS, 0);
/// The listener behind a steer address, once a client has asked for it. The kernel takes it out
/// when it closes.
#[map(name = "apps")]
static APPS: SockHash<Endpoint> = SockHash::with_max_entries(MAX_TARGETS, 0);
/// Targets beyond this host; the value says nothing.
#[map(name = "remotes")]
static REMOTES: HashMap<Endpoint, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);
/// A bit for each port that a service listens at.
#[map(name = "ports")]
static PORTS: Array<u32> = Array::with_max_entries(PORT_WORDS, 0);
/// The id of a handed-over connection, by either direction's packets.
#[map(name = "flows")]
static FLOWS: HashMap<Flow, u32> = HashMap::with_max_entries(2 * MAX_HANDED, BPF_F_NO_PREALLOC);
#[map(name = "handed")]
static HANDED: HashMap<u32, Handed> = HashMap::with_max_entries(MAX_HANDED, BPF_F_NO_PREALLOC);
/// Ids of connections whose sockets at the daemon still wait for acknowledgments of what they sent;
/// the value says nothing.
#[map(name = "owed")]
static OWED: HashMap<u32, u32> = HashMap::with_max_entries(MAX_HANDED, BPF_F_NO_PREALLOC);
#[map(name = "ends")]
static ENDS: RingBuf = RingBuf::with_byte_size(ENDS_BYTES, 0);
#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);
/// When this CPU last logged a refusal, in nanoseconds since boot.
#[map(name = "last_log")]
static LAST_LOG: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Room for some 4000 ends that the daemon hasn't heard of.
const ENDS_BYTES: u32 = 64 * 1024;

#[inline(always)]
pub fn is_steer(addr: &Addr) -> bool {
    match addr.v4() {
        Some(_) => STEER4.load().contains(addr),
        None => STEER6.load().contains(addr),
    }
}

#[inline(always)]
pub fn device() -> u32 {
    DEVICE.load()
}

/// What `inject` puts on a packet for this instance's `deliver`, `forward` on one that `inject` is to
/// let pass, the daemon on what it sends to the balancer of a connection that is handed over, and
/// `reply` on what leaves for the spoof namespace.
#[inline(always)]
pub fn mark() -> u32 {
    proxy_common::mark(DEVICE.load())
}

#[inline(always)]
pub fn via_lo() -> bool {
    VIA_LO.load() != 0
}

#[inline(always)]
pub fn hands_over() -> bool {
    HANDOVER.load() != 0
}

#[inline(always)]
pub fn listener(at: &Endpoint) -> Option<Listener> {
    // SAFETY: nothing writes a listener in place; a replaced value is a new element.
    unsafe { LISTENERS.get(at) }.copied()
}

/// Hands the connection to the socket at `listener`'s index; false when none is there.
#[inline(always)]
pub fn assign(ctx: &SkLookupContext, listener: &Listener) -> bool {
    SOCKETS
        .redirect_sk_lookup(ctx, listener.socket(), 0)
        .is_ok()
}

#[inline(always)]
pub fn target(steered: &Endpoint) -> Option<Endpoint> {
    // SAFETY: nothing writes a target in place; a replaced value is a new element.
    unsafe { TARGETS.get(steered) }.copied()
}

/// Has `assign_app` find the listener; false when the kernel won't have it in a map.
#[inline(always)]
pub fn remember_app(steered: &Endpoint, listener: *mut bpf_sock) -> bool {
    let apps = (&raw const APPS).cast_mut().cast();
    // SAFETY: a map of sockets takes a socket for its value; the kernel checks both types.
    unsafe { bpf_map_update_elem(apps, from_ref(steered).cast(), listener.cast(), 0) == 0 }
}

/// Hands the connection to the application's listener; false when none is remembered.
#[inline(always)]
pub fn assign_app(ctx: &SkLookupContext, steered: Endpoint) -> bool {
    APPS.redirect_sk_lookup(ctx, steered, 0).is_ok()
}

#[inline(always)]
pub fn is_remote(endpoint: &Endpoint) -> bool {
    REMOTES.get_ptr(endpoint).is_some()
}

/// Whether a service listens at this port.
#[inline(always)]
pub fn is_served(port: u16) -> bool {
    let (word, bit) = port_bit(port);
    PORTS.get(word).is_some_and(|bits| bits >> bit & 1 != 0)
}

/// The handed-over connection that a packet of this flow belongs to.
#[inline(always)]
pub fn handed(flow: &Flow) -> Option<(u32, *mut Handed)> {
    // SAFETY: nothing writes an id in place; a replaced value is a new element.
    let id = unsafe { FLOWS.get(flow) }.copied()?;
    Some((id, HANDED.get_ptr_mut(id)?))
}

/// What comes of this flow from now on is another connection's.
#[inline(always)]
pub fn forget(flow: &Flow) {
    // It may have been forgotten already.
    let _ = FLOWS.remove(flow);
}

#[inline(always)]
pub fn is_owed(id: u32) -> bool {
    OWED.get_ptr(id).is_some()
}

/// Tells the daemon. Should the ring be full, it finds out later by itself.
#[inline(always)]
pub fn tell(ended: &Ended) {
    let _ = ENDS.output::<Ended>(*ended, 0);
}

#[inline(always)]
pub fn spoof_netns() -> u64 {
    SPOOF_NETNS.load().into()
}

#[inline(always)]
pub fn allows(service: u32, balancer: &Addr) -> bool {
    match balancer.v4() {
        Some(v4) => ALLOW4.get(exact(service, [v4])).is_some(),
        None => ALLOW6.get(exact(service, balancer.words())).is_some(),
    }
}

#[inline(always)]
fn exact<const N: usize>(service: u32, addr: [u32; N]) -> Key<Allowed<N>> {
    let bits = Allowed::<N>::prefix_len(u32::BITS * N as u32);
    Key::new(bits, Allowed::new(service, addr))
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot, and a program isn't preempted by itself on one CPU.
        unsafe { *value += 1 };
    }
}

/// True at most once a second on each CPU.
#[inline(always)]
pub fn may_log(now: u64) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let Some(last) = LAST_LOG.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own slot, as in `count`.
    unsafe {
        if now.wrapping_sub(*last) < SECOND {
            return false;
        }
        *last = now;
    }
    true
}
