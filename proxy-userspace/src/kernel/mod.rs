//! The eBPF programs and their maps: the only user of aya.

mod allowlist;
mod attach;
mod clsact;
mod counters;
mod features;
mod handover;
mod load;
mod log;
mod low;
mod pins;

pub use allowlist::{Allowlist, Origin, covering};
pub use counters::Counters;
pub use features::{Feature, has_sk_lookup, has_tcx};
pub use handover::Handover;
pub use load::{Claim, Kernel, Placement};
pub use low::LowFds;
pub use pins::{Unmounted, directory as pins, is_mounted as is_bpffs_mounted};
