//! `cargo xtask lint`: what the tools can tell about the sources. Any warning fails.

use anyhow::Result;

use crate::build_ebpf;
use crate::proc::{cargo, step, succeed};
use crate::setup;

/// All but the one that compiles for the kernel only.
const WORKSPACE: [&str; 3] = ["--workspace", "--exclude=proxy-ebpf", "--locked"];

pub fn run() -> Result<()> {
    step("formatting");
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    succeed(&mut fmt, "not formatted, run `cargo fmt --all`")?;
    // The daemon doesn't compile without them.
    build_ebpf::run()?;
    clippy()?;
    clippy_ebpf()?;
    doc()
}

fn clippy() -> Result<()> {
    step("clippy");
    let mut clippy = cargo();
    clippy.arg("clippy").args(WORKSPACE).arg("--all-targets");
    succeed(clippy.args(["--", "-Dwarnings"]), "clippy has complaints")
}

fn clippy_ebpf() -> Result<()> {
    step("clippy on the eBPF programs");
    let mut clippy = build_ebpf::cargo(&setup::toolchain_to_lint()?, "clippy");
    clippy.args(["--", "-Dwarnings"]);
    succeed(&mut clippy, "clippy has complaints about the eBPF programs")
}

fn doc() -> Result<()> {
    step("documentation");
    let mut doc = cargo();
    doc.env("RUSTDOCFLAGS", "-Dwarnings").arg("doc");
    doc.args(WORKSPACE);
    doc.args(["--no-deps", "--document-private-items"]);
    succeed(&mut doc, "rustdoc has complaints")
}
