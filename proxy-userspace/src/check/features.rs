//! What the kernel can do.

use std::{fs, path::Path};

use super::Finding;
use crate::{
    kernel::{self, Feature},
    sys,
};

pub fn check() -> Vec<Finding> {
    let mut findings = needed();
    findings.extend([bpffs(), cgroup2(), open_files()]);
    findings
}

/// Without the ones that a start can do without, or sees to itself.
pub fn needed() -> Vec<Finding> {
    vec![sk_lookup(), tc(), btf()]
}

fn sk_lookup() -> Finding {
    const SUBJECT: &str = "sk_lookup";
    match kernel::has_sk_lookup() {
        Feature::Present => Finding::ok(SUBJECT, "the kernel has it"),
        Feature::Absent => Finding::fail(
            SUBJECT,
            "the kernel hasn't got it: balancers can't be told from others",
            "use Linux 6.6 or later, with CONFIG_BPF_SYSCALL and CONFIG_INET",
        ),
        Feature::Unknown(error) => Finding::warn(
            SUBJECT,
            format!("unknown: {error}"),
            "give what the capability lines ask for",
        ),
    }
}

fn tc() -> Finding {
    const SUBJECT: &str = "tcx";
    match kernel::has_tcx() {
        Feature::Present => Finding::ok(SUBJECT, "the kernel has it"),
        Feature::Absent => Finding::warn(
            SUBJECT,
            "this kernel is older than 6.6: programs attach by clsact, which a killed daemon leaves behind",
            "use Linux 6.6 or later",
        ),
        Feature::Unknown(error) => {
            Finding::warn(SUBJECT, format!("unknown: {error}"), "see `uname -r`")
        }
    }
}

fn open_files() -> Finding {
    const SUBJECT: &str = "open files";
    let files = sys::raise_nofile();
    if files < sys::LEAST_NOFILE {
        let next = "`ulimit -Hn 1048576`, or LimitNOFILE= in the unit";
        let least = sys::LEAST_NOFILE;
        let message =
            format!("{files} are too few: truepeer has {least} before its first connection");
        return Finding::fail(SUBJECT, message, next);
    }
    Finding::ok(SUBJECT, format!("there may be {files}"))
}

fn bpffs() -> Finding {
    const SUBJECT: &str = "bpffs";
    if kernel::is_bpffs_mounted() && kernel::is_bpffs_read_only() {
        Finding::fail(
            SUBJECT,
            "read-only at /sys/fs/bpf: the allowlist can't be pinned there",
            "mount -o remount,rw /sys/fs/bpf",
        )
    } else if kernel::is_bpffs_mounted() {
        Finding::ok(SUBJECT, "mounted at /sys/fs/bpf")
    } else {
        Finding::warn(
            SUBJECT,
            "not mounted at /sys/fs/bpf: `truepeer run` will mount it",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    }
}

fn btf() -> Finding {
    const SUBJECT: &str = "btf";
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    if Path::new(PATH).exists() {
        Finding::ok(SUBJECT, PATH)
    } else {
        let next = "use a kernel with CONFIG_DEBUG_INFO_BTF";
        Finding::warn(SUBJECT, format!("no {PATH}: programs may not load"), next)
    }
}

fn cgroup2() -> Finding {
    const SUBJECT: &str = "cgroup2";
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == "cgroup2")
    {
        Finding::ok(SUBJECT, "the kernel has it")
    } else {
        let next = "use a kernel with CONFIG_CGROUPS";
        Finding::warn(
            SUBJECT,
            "the kernel hasn't got it; UDP needs it, TCP doesn't",
            next,
        )
    }
}
