//! `cargo xtask setup`: installs what building, testing and the demo need and this machine lacks.

pub mod linker;

mod apt;
mod packages;
mod peers;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use crate::proc::step;
use crate::toolchain::Toolchain;
use apt::Apt;

pub fn run() -> Result<()> {
    ensure(&mut Apt::default())
}

/// The same with what tests need besides: the root that has newer senders in it.
pub fn for_tests() -> Result<PathBuf> {
    run()?;
    peers()
}

/// The same with what it takes to boot other kernels, which is an emulator: the command that starts it.
pub fn for_kernels() -> Result<Vec<OsString>> {
    let mut apt = Apt::default();
    apt.ensure(packages::KERNELS)?;
    ensure(&mut apt)?;
    let root = peers()?;
    // Before 8.1 (Debian 12's is 7.2) a CPU may translate code that another one is changing, and keep
    // a breakpoint that the kernel has long taken away: one boot in many ends in "Oops: int3".
    let mut qemu = peers::program(&root, "usr/bin/qemu-system-x86_64");
    for firmware in ["qemu", "seabios"] {
        qemu.extend(["-L".into(), root.join("usr/share").join(firmware).into()]);
    }
    Ok(qemu)
}

fn ensure(apt: &mut Apt) -> Result<()> {
    // Both, even if one fails: one run tells all that is missing.
    let compiler = compiler_with_clippy(apt).map(drop);
    let done = [compiler, apt.ensure(packages::TESTS)];
    let failed: Vec<_> = done.iter().filter_map(|part| part.as_ref().err()).collect();
    if !failed.is_empty() {
        let failed: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
        bail!("setup is not complete: {}", failed.join("\nerror: "));
    }
    step("setup: everything is there");
    Ok(())
}

/// What only the bench needs.
pub fn bench() -> Result<()> {
    Apt::default().ensure(packages::BENCH)
}

/// The root that has newer senders for tests in it, the bench's peers, and QEMU.
pub fn peers() -> Result<PathBuf> {
    Apt::default().ensure(packages::PEERS)?;
    peers::ensure()
}

/// What compiles the eBPF programs, installed first where it isn't. In silence when it is.
pub fn toolchain() -> Result<Toolchain> {
    compiler(&mut Apt::default())
}

/// The same with clippy.
pub fn toolchain_to_lint() -> Result<Toolchain> {
    compiler_with_clippy(&mut Apt::default())
}

fn compiler_with_clippy(apt: &mut Apt) -> Result<Toolchain> {
    let toolchain = compiler(apt)?;
    if toolchain.lacks_clippy() {
        apt.ensure(packages::CLIPPY)?;
    }
    Ok(toolchain)
}

fn compiler(apt: &mut Apt) -> Result<Toolchain> {
    let toolchain = Toolchain::find().or_else(|missing| {
        apt.ensure(packages::COMPILER)
            .map_err(|error| anyhow!("{missing}, or: {error:#}"))?;
        Toolchain::find()
    })?;
    linker::ensure(apt, toolchain.llvm())?;
    Ok(toolchain)
}
