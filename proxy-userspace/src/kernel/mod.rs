//! The eBPF programs and their maps: the only user of aya.

mod allowlist;
mod attach;
mod clsact;
mod counters;
mod load;
mod log;
mod pins;

pub use allowlist::{Allowlist, Origin, covering};
pub use counters::Counters;
pub use load::{Claim, Kernel, Placement};
