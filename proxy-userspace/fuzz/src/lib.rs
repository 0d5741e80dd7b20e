//! The header module on its own, so that fuzzing needs neither the eBPF object nor the daemon's
//! dependencies. From the repository's root, with a nightly toolchain or `RUSTC_BOOTSTRAP=1`:
//!
//! ```text
//! cargo fuzz run --fuzz-dir proxy-userspace/fuzz v2 -- -max_total_time=60
//! ```

#[path = "../../src/header/mod.rs"]
pub mod header;
