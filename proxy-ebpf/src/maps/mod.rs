//! The maps and the constants set at load, behind typed accessors.

mod admit;
mod datagrams;
mod direct;
mod locks;
mod secret;
mod slots;
mod spoken;
mod steer;
mod tallies;

use aya_ebpf::{Global, macros::map, maps::PerCpuArray};
use proxy_common::{Addr, Counter, Life, Steer, counter, datagram::Receiver, offsets::Offsets};

pub use admit::{
    allows, assign, denies, guarded, is_local, is_own, is_reached, is_served, last_up, listener_at,
    may_log, set_up, stamp,
};
pub use datagrams::{
    Sent, admitted, aim, any_is_beyond, any_is_receiving, assign_catcher, assign_datagram_app,
    find_datagram_flow, find_first, finds_datagram_app, forget_datagram_flow, give_datagram_app,
    insert_datagram_flow, insert_first, insert_first_of_none, is_aim, is_exclusive, is_hearing,
    is_receiving, is_target_address, leads, may_tell_error, note_admitted, note_hearing,
    receiver_at, remember_datagram_app, remember_sent, replace_datagram_flow, sent_in_pieces,
};
pub use direct::{
    Scratch, body, confirm, count_made, count_share, find_down, find_up, for_each_down,
    for_each_pending, for_each_share, forget_pending, forget_share, forget_tuples, forget_up,
    has_room, host, insert_down, insert_pending, insert_up, is_fragmented, is_spent, keep_header,
    life, note_fragments, note_given, pending, pieces, remember_pieces, scratch, set_life, spend,
    tell, was_given,
};
pub use locks::{Lock, lock, unlock};
pub use secret::{mac, secret};
pub use slots::{forget_share_of, has_slot, insert_share, placing, share, slot};
pub use spoken::{has_spoken, note_spoken};
pub use steer::{
    any_is_bound, assign_app, bound_to, has_route, is_last_resort, is_remote, is_steered,
    is_unmapped, least_mtu, link_of, remember_app, target,
};
pub use tallies::{for_each_tally, forget_tally, limits, tally, tally_or_new};

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
/// Whether a program stays on its device when the daemon is killed (1), as a filter of tc does.
#[unsafe(no_mangle)]
static STAYS: Global<u32> = Global::new(0);

/// The number that the daemon counts its connections under.
#[unsafe(no_mangle)]
static OWNER: Global<u32> = Global::new(0);

/// Where the running kernel has what [`wire::skb`](crate::wire::skb) and [`lookup::hooks`](crate::lookup::hooks) read.
#[unsafe(no_mangle)]
static OFFSETS: Global<Offsets> = Global::new(Offsets::UNKNOWN);

/// This namespace's, which other programs of the machine know it by as well.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

/// Flags that some service's receiver has. What none has costs the verifier nothing.
#[unsafe(no_mangle)]
static RECEIVERS_HAVE: Global<u32> = Global::new(u32::MAX);

#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

#[inline(always)]
pub fn is_steer(addr: &Addr) -> bool {
    match addr.v4() {
        Some(_) => STEER4.load().contains(addr),
        None => STEER6.load().contains(addr),
    }
}

/// Each is read for itself: the verifier follows a constant from where it is loaded to where it is used.
#[inline(always)]
pub const fn offsets() -> *const Offsets {
    (&raw const OFFSETS).cast()
}

#[inline(always)]
pub fn device() -> u32 {
    DEVICE.load()
}

/// Whether there may be no daemon any more, nor anybody else who would take this program away.
#[inline(always)]
pub fn may_be_left() -> bool {
    STAYS.load() != 0
}

/// What `inject` puts on a packet for this instance's `deliver`, `direct` on one that `inject` is to
/// let pass, and `reply` on what leaves for the spoof namespace.
#[inline(always)]
pub fn mark() -> u32 {
    proxy_common::mark(DEVICE.load())
}

#[inline(always)]
pub fn via_lo() -> bool {
    VIA_LO.load() != 0 && life(Life::PastLo) == 0
}

#[inline(always)]
pub fn owner() -> u32 {
    OWNER.load()
}

#[inline(always)]
pub fn host_netns() -> u64 {
    HOST_NETNS.load()
}

#[inline(always)]
pub fn spoof_netns() -> u64 {
    SPOOF_NETNS.load().into()
}

/// What lies at `at`, which others may be writing; 0 if there is no such place.
#[inline(always)]
fn load_word<T: Copy + Default>(at: Option<*const T>) -> T {
    at.map_or_else(T::default, |at| {
        // SAFETY: a plain load of one word of a map.
        unsafe { at.read_volatile() }
    })
}

#[inline(always)]
fn store_word<T: Copy>(at: Option<*mut T>, value: T) {
    if let Some(at) = at {
        // SAFETY: a plain store of one word of a map.
        unsafe { at.write_volatile(value) };
    }
}

/// Whether any receiver has this flag.
#[inline(always)]
pub fn any_has(flag: u32) -> bool {
    RECEIVERS_HAVE.load() & flag != 0
}

#[inline(always)]
pub fn has(receiver: &Receiver, flag: u32) -> bool {
    any_has(flag) && receiver.has(flag)
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot, and a program isn't preempted by itself on one CPU.
        unsafe { *value += 1 };
    }
}
