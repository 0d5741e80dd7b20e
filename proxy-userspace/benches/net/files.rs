//! How many connections the limit of open files has room for.

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What a proxy, with its pipes, and the bench have open besides connections.
const OTHERS: u64 = 600;

/// What a connection has open, here and in most proxies: its two ends.
pub const ENDS: u64 = 2;

/// Gives the calling thread, and those that it starts, descriptors of their own: a limit is one
/// table's, not one process's.
pub fn split() -> Result<()> {
    // SAFETY: what is open now has the same number in both tables, and what either opens from here
    // on stays with it.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.context("a table of descriptors of its own")
}

/// How many connections with so many files a process can hold.
pub fn connections(files_each: u64) -> usize {
    let files = getrlimit(Resource::Nofile).current;
    let files = files.unwrap_or(1 << 20).saturating_sub(OTHERS);
    let connections = files.checked_div(files_each);
    connections.map_or(usize::MAX, |count| {
        usize::try_from(count).unwrap_or(usize::MAX)
    })
}
