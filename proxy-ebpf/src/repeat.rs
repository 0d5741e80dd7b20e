//! Loops that the verifier goes through once or twice, not once for each time round.

use core::{ffi::c_void, ptr::from_mut};

use aya_ebpf::helpers::bpf_loop;

/// What is done each time, with the number of the time and something of the caller's; [`STOP`] ends it.
pub type Step<T> = unsafe extern "C" fn(u64, *mut T) -> i64;

pub const MORE: i64 = 0;
pub const STOP: i64 = 1;

/// At most `times`.
#[inline(always)]
pub fn repeat<T>(times: u32, step: Step<T>, with: &mut T) {
    // SAFETY: the verifier goes through `step` with what `with` is.
    unsafe { bpf_loop(times, step as *mut c_void, from_mut(with).cast(), 0) };
}
