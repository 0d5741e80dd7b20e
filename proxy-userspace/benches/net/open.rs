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
    let maps = all_maps(pids)?;
    Ok(maps.iter().map(|map| map.bytes).sum())
}

/// Bytes that maps of these sizes, the first of which is of how many flows there may be, have for each flow,
/// whether it is there or not: a table from which the oldest go is there as a whole from the start.
pub fn reserved(pids: &[String], sizes: [u32; 2]) -> Result<f64> {
    let wanted = sizes.map(u64::from);
    let is_one = |map: &&Map| map.is_allocated && wanted.contains(&map.entries);
    let maps = all_maps(pids)?;
    let bytes: u64 = maps.iter().filter(is_one).map(|map| map.bytes).sum();
    Ok(bytes as f64 / f64::from(sizes[0]))
}

struct Map {
    /// As a whole, from the start: TCP's tables of that size aren't.
    is_allocated: bool,
    entries: u64,
    bytes: u64,
}

fn all_maps(pids: &[String]) -> Result<Vec<Map>> {
    let mut maps = BTreeMap::new();
    for pid in pids {
        for fd in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // one that was closed in between is gone
            let info = fs::read_to_string(fd?.path()).unwrap_or_default();
            let map = || {
                let map = Map {
                    is_allocated: info.lines().any(|line| line == "map_flags:\t0x0"),
                    entries: field(&info, "max_entries:")?,
                    bytes: field(&info, "memlock:")?,
                };
                Some((field(&info, "map_id:")?, map))
            };
            maps.extend(map());
        }
    }
    Ok(maps.into_values().collect())
}

fn field(info: &str, key: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().parse().ok()
}
