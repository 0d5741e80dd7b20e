//! How many connections the limit of open files has room for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a proxy, with its pipes, and the bench have open besides connections.
const OTHERS: u64 = 600;

/// What a connection has open, here and in most proxies: its two ends.
pub const ENDS: u64 = 2;

/// How many connections with so many files a process can hold. The limit is raised as far as this
/// process may, and proxies inherit it.
pub fn connections(files_each: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let connections = files.unwrap_or(1 << 20).saturating_sub(OTHERS) / files_each;
    usize::try_from(connections).unwrap_or(usize::MAX)
}
