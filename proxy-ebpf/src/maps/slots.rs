//! Places of flows of datagrams, and whose they are. Only who has the lock changes them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use proxy_common::{
    datagram::MAX_DATAGRAM_FLOWS,
    flow::Tuple,
    shares::{Holder, Placing, Share, Slot},
};

#[map(name = "datagram_slots")]
static SLOTS: Array<Slot> = Array::with_max_entries(MAX_DATAGRAM_FLOWS, 0);
#[map(name = "datagram_shares")]
static SHARES: HashMap<Holder, Share> = HashMap::with_max_entries(Holder::MOST, 0);
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
