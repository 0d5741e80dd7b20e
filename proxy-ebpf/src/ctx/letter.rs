//! Packets that are no packets: what the daemon has for a program, and gets back.

use core::ptr::{from_mut, from_ref};

use aya_ebpf::{helpers::bpf_skb_store_bytes, programs::TcContext};

use super::{Link, Unreadable, load_payload};

/// All of a packet that the daemon has made, which is as long.
#[inline(always)]
pub fn load_all<T>(ctx: &TcContext, to: &mut T) -> Result<(), Unreadable> {
    load_payload(ctx, Link(0), 0, from_mut(to).cast(), size_of::<T>() as u64)
}

#[inline(always)]
pub fn store_all<T>(ctx: &TcContext, from: &T) -> Result<(), Unreadable> {
    let (len, from) = (size_of::<T>() as u32, from_ref(from).cast());
    // SAFETY: the verifier sees that `from` has `len` bytes.
    let failed = unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, from, len, 0) };
    if failed == 0 { Ok(()) } else { Err(Unreadable) }
}
