//! `cargo xtask build-ebpf`: the eBPF programs as one object, target/bpf/truepeer.o, which the
//! daemon's build embeds.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::proc::{root, step, succeed};
use crate::setup::{self, linker};
use crate::stack;
use crate::toolchain::{TARGET, Toolchain};

pub fn run() -> Result<()> {
    let toolchain = setup::toolchain()?;
    step(format_args!("the eBPF programs, with {toolchain}"));
    let mut build = cargo(&toolchain, "build");
    succeed(&mut build, "the eBPF programs do not compile")?;
    let built = target_dir().join(TARGET).join("release/truepeer-ebpf");
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    stack::check(&object)?;
    publish(&object, &root().join("target/bpf/truepeer.o"))
}

/// `cargo SUBCOMMAND` for the eBPF package, with its compiler, linker and target directory.
pub fn cargo(toolchain: &Toolchain, subcommand: &str) -> Command {
    let mut cargo = toolchain.cargo(subcommand);
    cargo
        .args(["--package", "proxy-ebpf", "--release", "--locked"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_dir())
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker::path())
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags());
    cargo
}

/// Its own: two compilers in one directory would throw out each other's build scripts.
fn target_dir() -> PathBuf {
    root().join("target/ebpf")
}

fn rustflags() -> String {
    // The kernel's structures differ by the CPU it runs on, and the target only says "bpf".
    let arch = format!("--cfg=bpf_target_arch=\"{ARCH}\"");
    // bpf-linker makes BTF, the types that the kernel knows a program by, of the debug info.
    // Without the last one, LLVM calls a function that goes byte by byte for each memset.
    let flags = [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ];
    [&[arch.as_str()], &flags[..]].concat().join("\x1f")
}

/// Copies only what differs, so that the daemon isn't built anew for nothing.
fn publish(new: &[u8], object: &Path) -> Result<()> {
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let write = || {
        fs::create_dir_all(object.parent().unwrap_or(object))?;
        // By a rename: a build that runs at the same time must not embed half of it.
        let partial = object.with_extension("partial");
        fs::write(&partial, new)?;
        fs::rename(&partial, object)
    };
    write().with_context(|| format!("cannot write {}", object.display()))
}
