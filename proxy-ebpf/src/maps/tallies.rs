//! How much there is of each balancer and client, where a service limits that. Only who has the lock of a tally's
//! protocol changes it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::HashMap,
};
use proxy_common::{
    MAX_LISTENERS,
    limits::{Limits, Tally, TallyKey},
};

/// By service; those that have none aren't in it.
#[map(name = "limits")]
static LIMITS: HashMap<u32, Limits> =
    HashMap::with_max_entries(2 * MAX_LISTENERS + 1, BPF_F_NO_PREALLOC);
#[map(name = "tallies")]
static TALLIES: HashMap<TallyKey, Tally> =
    HashMap::with_max_entries(TallyKey::MOST, BPF_F_NO_PREALLOC);

#[inline(always)]
pub fn limits(service: u32) -> Option<&'static Limits> {
    // SAFETY: nothing writes one in place; a replaced value is a new element.
    unsafe { LIMITS.get(service) }
}

#[inline(always)]
pub fn tally(key: &TallyKey) -> Option<&'static mut Tally> {
    // SAFETY: who has the lock is alone.
    TALLIES.get_ptr_mut(key).map(|tally| unsafe { &mut *tally })
}

/// The same, or a new one; none: there is no room for it.
#[inline(always)]
pub fn tally_or_new(key: &TallyKey) -> Option<&'static mut Tally> {
    if let Some(known) = tally(key) {
        return Some(known);
    }
    // Whether it could be put there shows in the next line.
    let _ = TALLIES.insert(key, Tally::default(), BPF_NOEXIST.into());
    tally(key)
}

#[inline(always)]
pub fn forget_tally(key: &TallyKey) {
    let _ = TALLIES.remove(key);
}

type Each<T> = unsafe extern "C" fn(*mut c_void, *const TallyKey, *mut Tally, *mut T) -> i64;

#[inline(always)]
pub fn for_each_tally<T>(each: Each<T>, with: &mut T) {
    super::direct::for_each(&TALLIES, each, with);
}
