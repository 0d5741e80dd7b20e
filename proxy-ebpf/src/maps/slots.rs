//! Places of flows of datagrams, and whose they are. Only who has the lock changes them.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use proxy_common::{
    datagram::MAX_DATAGRAM_FLOWS,
    flow::Tuple,
    shares::{Holder, Placing, Share, Slot},
};

use super::load_word;
use crate::{
    clock,
    repeat::{MORE, STOP, repeat},
};

#[map(name = "datagram_slots")]
static SLOTS: Array<Slot> = Array::with_max_entries(MAX_DATAGRAM_FLOWS, 0);
#[map(name = "datagram_shares")]
static SHARES: HashMap<Holder, Share> = HashMap::with_max_entries(Holder::MOST, 0);
/// Since when somebody has it, in seconds.
#[map(name = "datagram_lock")]
static LOCK: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);
/// Room for what the daemon has for the program `place`.
#[map(name = "placing")]
static PLACING: PerCpuArray<Placing> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn placing() -> Option<&'static mut Placing> {
    // SAFETY: this CPU's own, and nothing else runs there until the program has ended.
    PLACING
        .get_ptr_mut(0)
        .map(|placing| unsafe { &mut *placing })
}

/// Has nobody else change slots and shares until `unlock_slots`. This target's compiler has no atomic
/// exchange, but of two that insert into a map one fails.
#[inline(always)]
pub fn lock_slots() -> bool {
    /// Others have it for some microseconds each, and there may be many.
    const TRIES: u32 = 4096;
    let mut is_locked = 0;
    repeat(TRIES, lock, &mut is_locked);
    if is_locked == 0 {
        unlock_stale();
    }
    is_locked != 0
}

unsafe extern "C" fn lock(_: u64, is_locked: *mut u64) -> i64 {
    if LOCK
        .insert(0, clock::seconds(), BPF_NOEXIST.into())
        .is_err()
    {
        return MORE;
    }
    // SAFETY: what `lock_slots` gave.
    unsafe { *is_locked = 1 };
    STOP
}

/// Should the kernel once have failed to remove it. Where there is none by now, somebody has just done so.
#[inline(always)]
fn unlock_stale() {
    if let Some(since) = LOCK.get_ptr(0)
        && clock::seconds().wrapping_sub(load_word(Some(since))) > 2
    {
        unlock_slots();
    }
}

#[inline(always)]
pub fn unlock_slots() {
    let _ = LOCK.remove(0);
}

#[inline(always)]
pub fn slot(index: u32) -> Option<&'static mut Slot> {
    // SAFETY: who has the lock is alone.
    SLOTS.get_ptr_mut(index).map(|slot| unsafe { &mut *slot })
}

/// Whether it is that of the flow of these replies.
#[inline(always)]
pub fn has_slot(reply: &Tuple, index: u32) -> bool {
    slot(index).is_some_and(|slot| slot.reply == *reply)
}

#[inline(always)]
pub fn share(holder: &Holder) -> Option<&'static mut Share> {
    // SAFETY: as above.
    SHARES
        .get_ptr_mut(holder)
        .map(|share| unsafe { &mut *share })
}

/// False if there are too many.
#[inline(always)]
pub fn insert_share(holder: &Holder) -> bool {
    SHARES.insert(holder, Share::default(), 0).is_ok()
}

#[inline(always)]
pub fn forget_share_of(holder: &Holder) {
    let _ = SHARES.remove(holder);
}
