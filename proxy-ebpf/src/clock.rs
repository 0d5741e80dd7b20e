//! The kernel's coarse monotonic clock, by which everything in the maps is.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use proxy_common::flow;

#[inline(always)]
pub fn nanoseconds() -> u64 {
    // SAFETY: takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// As flows and cookies count them.
#[inline(always)]
pub fn seconds() -> u32 {
    flow::seconds(nanoseconds())
}
