//! Memory that is free.

/// Gives it back to the kernel, of which glibc keeps some for each thread that has ever had any. Other C libraries do
/// so by themselves.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes any number, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
