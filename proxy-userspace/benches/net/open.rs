//! What a process has open.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;

/// How many descriptors.
pub fn descriptors(pid: &str) -> Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// Bytes of the eBPF maps that these processes have open, by the kernel's own count; one that is open
/// twice, or held by a keeper too, counts once.
pub fn maps(pids: &[String]) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for pid in pids {
        for fd in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // one that was closed in between is gone
            let info = fs::read_to_string(fd?.path()).unwrap_or_default();
            if let (Some(id), Some(bytes)) = (field(&info, "map_id:"), field(&info, "memlock:")) {
                maps.insert(id, bytes);
            }
        }
    }
    Ok(maps.values().sum())
}

fn field(info: &str, key: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().parse().ok()
}
