//! The kernel's own structure of a packet, and what it is linked to.

use core::{ffi::c_void, mem::transmute};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use proxy_common::kfunc::CAST_TO_KERN_CTX;

use crate::maps;

pub type Pointer = *const u8;

/// What the kernel knows of the checksum of a packet's transport header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Summed {
    /// All bytes that the header says are in it.
    Whole,
    /// The pseudo-header so far: the rest is yet to be added (CHECKSUM_PARTIAL).
    Partial,
    /// One that goes with a sum of the whole packet (CHECKSUM_COMPLETE), or nobody can tell.
    Other,
}

/// # Safety
/// `constant` is a static's.
#[inline(always)]
pub unsafe fn read<T: Copy>(constant: *const T) -> T {
    // SAFETY: as the caller says.
    unsafe { constant.read_volatile() }
}

/// # Safety
/// `structure` is the kernel's, and has a `T` there.
#[inline(always)]
pub unsafe fn field<T: Copy>(structure: Pointer, offset: u32) -> T {
    // SAFETY: as the caller says.
    unsafe { read(structure.add(offset as usize).cast()) }
}

/// The kernel's own structure behind a program's context.
///
/// # Safety
/// The kernel has the function, or nothing comes of this call's result.
#[inline(always)]
pub unsafe fn kernels(ctx: &TcContext) -> Pointer {
    type Function = unsafe extern "C" fn(*mut c_void) -> Pointer;
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: compiles to a call of this number; the verifier checks the argument's type.
    unsafe {
        let function = transmute::<usize, Function>(CAST_TO_KERN_CTX.number as usize);
        function(skb.cast())
    }
}

#[inline(always)]
pub fn summed(ctx: &TcContext) -> Summed {
    /// Of linux/skbuff.h.
    const COMPLETE: u8 = 2;
    const PARTIAL: u8 = 3;
    let at = maps::offsets();
    // SAFETY: a static's fields. The packet's structure is the kernel's, and the verifier knows its type by
    // this offset.
    let summed = unsafe {
        let of_summed = read::<u32>(&raw const (*at).summed);
        if of_summed == 0 {
            return Summed::Other;
        }
        field::<u8>(kernels(ctx), of_summed) >> read::<u32>(&raw const (*at).summed_bit)
    };
    match summed & PARTIAL {
        PARTIAL => Summed::Partial,
        COMPLETE => Summed::Other,
        _ => Summed::Whole,
    }
}
