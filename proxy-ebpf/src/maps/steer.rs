//! Where applications are.

use core::{ffi::c_void, ptr::from_ref};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_sock},
    helpers::bpf_map_update_elem,
    macros::map,
    maps::{Array, HashMap, LpmTrie, SockHash, lpm_trie::Key},
    programs::{SkLookupContext, TcContext},
};
use proxy_common::{Addr, Endpoint, Life, Links, MAX_DEVICES, MAX_ROUTES, MAX_TARGETS};

use super::{is_steer, life, load_word};
use crate::ctx::{self, Link};

/// By the steer address and port that leads there; those beyond this host by themselves.
#[map(name = "targets")]
static TARGETS: HashMap<Endpoint, Endpoint> = HashMap::with_max_entries(MAX_TARGETS, 0);
/// The listener behind a steer address, once a client has asked for it. The kernel takes it out
/// when it closes.
#[map(name = "apps")]
static APPS: SockHash<Endpoint> = SockHash::with_max_entries(MAX_TARGETS, 0);
/// Steer addresses of listeners that the kernel won't have in a map; the value says nothing.
#[map(name = "unmapped")]
static UNMAPPED: HashMap<Endpoint, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// The device by which alone an application hears, by its steer address.
#[map(name = "bound")]
static BOUND: HashMap<Endpoint, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// Devices where an application's packets are steered, while a start isn't through with all of them; the
/// value says nothing.
#[map(name = "steered")]
static STEERED: HashMap<u32, u32> = HashMap::with_max_entries(MAX_DEVICES, BPF_F_NO_PREALLOC);
/// How long the header in front of the network header is, of devices without Ethernet's: 0.
#[map(name = "bare_devices")]
static BARE_DEVICES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_DEVICES, BPF_F_NO_PREALLOC);
#[map(name = "links")]
static LINKS: Array<u32> = Array::with_max_entries(Links::LEN, 0);
/// Where the host has a route of its own, while ours of last resort is there.
#[map(name = "routes4")]
static ROUTES4: LpmTrie<[u32; 1], u32> = LpmTrie::with_max_entries(MAX_ROUTES, 0);
#[map(name = "routes6")]
static ROUTES6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(MAX_ROUTES, 0);
/// Whether it is, of IPv4 and of IPv6.
#[map(name = "last_resort")]
static LAST_RESORT: Array<u32> = Array::with_max_entries(2, 0);

/// The least MTU that any of the host's routes has of its own, of IPv4 and of IPv6; 0: that isn't known yet.
#[map(name = "least_mtus")]
static LEAST_MTUS: Array<u32> = Array::with_max_entries(2, 0);

/// The longest packet that any of the host's routes takes in one piece, as far as routes say.
#[inline(always)]
pub fn least_mtu(is_v6: bool) -> u32 {
    /// Hardly any route has less.
    const CAUTIOUS: u32 = 1280;
    match load_word(LEAST_MTUS.get_ptr(is_v6.into())) {
        0 => CAUTIOUS,
        least => least,
    }
}

#[inline(always)]
pub fn is_steered(device: u32) -> bool {
    STEERED.get_ptr(device).is_some()
}

/// What the packets of the device at which the program runs begin with. One program does for all devices: most of
/// a start's time is the verifier's, which would go through another one for those without Ethernet. All of it
/// comes out of maps, and so it is one unknown number to the verifier.
#[inline(always)]
pub fn link_of(ctx: &TcContext) -> Link {
    if load_word(LINKS.get_ptr(Links::AnyIsBare as u32)) != 0
        && let Some(len) = BARE_DEVICES.get_ptr(ctx::device(ctx))
    {
        return Link::of(load_word(Some(len)));
    }
    Link::of(load_word(LINKS.get_ptr(Links::Ethernet as u32)))
}

#[inline(always)]
pub fn is_last_resort(to: &Addr) -> bool {
    load_word(LAST_RESORT.get_ptr(to.v4().is_none().into())) != 0
}

#[inline(always)]
pub fn has_route(to: &Addr) -> bool {
    match to.v4() {
        Some(word) => ROUTES4.get(Key::new(u32::BITS, [word])).is_some(),
        None => ROUTES6.get(Key::new(u32::BITS * 4, to.words())).is_some(),
    }
}

#[inline(always)]
pub fn target(steered: &Endpoint) -> Option<Endpoint> {
    // SAFETY: nothing writes a target in place; a replaced value is a new element.
    unsafe { TARGETS.get(steered) }.copied()
}

/// Whether any application is heard by one device alone.
#[inline(always)]
pub fn any_is_bound() -> bool {
    life(Life::Bound) != 0
}

#[inline(always)]
pub fn bound_to(steered: &Endpoint) -> Option<u32> {
    BOUND.get_ptr(steered).map(|device| load_word(Some(device)))
}

/// False when the kernel won't have it in a map.
#[inline(always)]
pub(super) fn insert_socket<K>(map: *const c_void, at: &K, socket: *mut bpf_sock) -> bool {
    // SAFETY: a map of sockets takes a socket for its value; the kernel checks all types.
    unsafe { bpf_map_update_elem(map.cast_mut(), from_ref(at).cast(), socket.cast(), 0) == 0 }
}

/// Has `assign_app` find the listener; false when the kernel won't have it in a map, which is
/// remembered instead.
#[inline(always)]
pub fn remember_app(steered: &Endpoint, listener: *mut bpf_sock) -> bool {
    let is_mapped = insert_socket(from_ref(&APPS).cast(), steered, listener);
    if is_mapped == is_unmapped(steered) {
        // Whatever comes of it: the next SYN tries again.
        let _ = if is_mapped {
            UNMAPPED.remove(steered)
        } else {
            UNMAPPED.insert(steered, 0, 0)
        };
    }
    is_mapped
}

#[inline(always)]
pub fn is_unmapped(steered: &Endpoint) -> bool {
    UNMAPPED.get_ptr(steered).is_some()
}

/// Hands the connection to the application's listener; false when none is remembered.
#[inline(always)]
pub fn assign_app(ctx: &SkLookupContext, steered: Endpoint) -> bool {
    APPS.redirect_sk_lookup(ctx, steered, 0).is_ok()
}

/// Whether it is a target beyond this host. A packet that comes in may claim a steer address.
#[inline(always)]
pub fn is_remote(endpoint: &Endpoint) -> bool {
    TARGETS.get_ptr(endpoint).is_some() && !is_steer(&endpoint.addr())
}
