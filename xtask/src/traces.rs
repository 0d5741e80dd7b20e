//! What truepeer or its tests could leave behind on a machine.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use crate::privilege::as_root;

/// Named network namespaces and pinned maps; whatever is below these.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/sys/fs/bpf/truepeer"];

pub struct Traces(BTreeSet<String>);

impl Traces {
    pub fn look() -> Result<Self> {
        let devices = fs::read_to_string("/proc/net/dev").context("cannot list devices")?;
        // As root, for bpffs lets nobody else in. It fails where a directory doesn't exist.
        let find = as_root("find")
            .args(DIRECTORIES)
            .args(["-mindepth", "1"])
            .output()
            .context("cannot start find")?;
        let files = String::from_utf8_lossy(&find.stdout);
        let files = files.lines().map(str::to_owned);
        Ok(Self(files.chain(device_names(&devices)).collect()))
    }

    /// What wasn't there before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Reads /proc/net/dev. Not /sys/class/net, which shows the namespace it was mounted in.
fn device_names(table: &str) -> impl Iterator<Item = String> {
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    rows.map(|(name, _)| format!("device {}", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
    lo: 1000       10    0    0    0     0          0         0     1000       10
truepeer0:   0      0    0    0    0     0          0         0        0        0
";

    #[test]
    fn devices_are_named_without_the_headings() {
        let names: Vec<_> = device_names(TABLE).collect();
        assert_eq!(names, ["device lo", "device truepeer0"]);
    }

    #[test]
    fn only_what_is_new_counts() {
        let traces = |names: &[&str]| Traces(names.iter().map(|&name| name.into()).collect());
        let before = traces(&["device lo", "device old"]);
        let after = traces(&["device lo", "device truepeer0"]);
        assert_eq!(after.since(&before), ["device truepeer0"]);
    }
}
