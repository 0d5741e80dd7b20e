//! What one program at a time may change.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};

use super::load_word;
use crate::{
    clock,
    repeat::{MORE, STOP, repeat},
};

/// Since when somebody has each, in seconds.
#[map(name = "locks")]
static LOCKS: HashMap<u32, u32> = HashMap::with_max_entries(Lock::COUNT, 0);

#[repr(u32)]
#[derive(Clone, Copy)]
pub enum Lock {
    /// Slots, shares and tallies of datagrams.
    Datagrams,
    /// Tallies of connections, and which ones are counted.
    Connections,
}

impl Lock {
    const COUNT: u32 = Self::Connections as u32 + 1;
}

/// Somebody who tries.
struct Try {
    lock: u32,
    has_it: u32,
}

/// Has nobody else get that far until `unlock`. This target's compiler has no atomic exchange, but of two that insert
/// into a map one fails. False: others have it for too long.
#[inline(always)]
pub fn lock(lock: Lock) -> bool {
    /// Others have it for some microseconds each, and there may be many.
    const TRIES: u32 = 4096;
    let lock = lock as u32;
    let mut it = Try { lock, has_it: 0 };
    repeat(TRIES, try_once, &mut it);
    if it.has_it == 0 {
        unlock_stale(lock);
    }
    it.has_it != 0
}

unsafe extern "C" fn try_once(_: u64, it: *mut Try) -> i64 {
    // SAFETY: what `lock` gave.
    let it = unsafe { &mut *it };
    if LOCKS
        .insert(it.lock, clock::seconds(), BPF_NOEXIST.into())
        .is_err()
    {
        return MORE;
    }
    it.has_it = 1;
    STOP
}

/// Should the kernel once have failed to remove it. Where there is none by now, somebody has just done so.
#[inline(always)]
fn unlock_stale(lock: u32) {
    if let Some(since) = LOCKS.get_ptr(lock)
        && clock::seconds().wrapping_sub(load_word(Some(since))) > 2
    {
        let _ = LOCKS.remove(lock);
    }
}

#[inline(always)]
pub fn unlock(lock: Lock) {
    let _ = LOCKS.remove(lock as u32);
}
