//! `cargo xtask lint`: what tools can tell about the sources, and the rules of this house. Any
//! warning fails.

mod commands;
mod exceptions;
mod headings;
mod rooms;
mod sizes;
mod sources;
mod table;
mod uses;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::build_ebpf;
use crate::proc::{cargo, root, step, succeed};
use crate::setup;
use exceptions::Exceptions;
use rooms::Rooms;

/// Has the rooms and the exceptions.
const MAP: &str = "proxy-userspace/docs/architecture.md";

/// All but the one that compiles for the kernel only.
const WORKSPACE: [&str; 3] = ["--workspace", "--exclude=proxy-ebpf", "--locked"];

pub fn run() -> Result<()> {
    step("formatting");
    let mut fmt = cargo();
    fmt.args(["fmt", "--all", "--check"]);
    succeed(&mut fmt, "not formatted, run `cargo fmt --all`")?;
    house()?;
    // The daemon doesn't compile without them.
    build_ebpf::run()?;
    clippy()?;
    clippy_ebpf()?;
    doc()
}

/// Rooms, sizes, headings, and commands in documents.
fn house() -> Result<()> {
    step(format_args!(
        "the rules of the house, with the tables in {MAP}"
    ));
    let map = fs::read_to_string(root().join(MAP)).context(MAP)?;
    let exceptions = Exceptions::read(&map).context(MAP)?;
    let sources = sources::read()?;
    let mut complaints = Rooms::read(&map)
        .context(MAP)?
        .complaints(&sources, &exceptions);
    for source in &sources {
        complaints.extend(headings::complaint(source));
        complaints.extend(sizes::complaints(source, &exceptions));
    }
    complaints.extend(exceptions.complaints());
    complaints.extend(commands::complaints()?);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("the house has {} complaints", complaints.len());
    }
    Ok(())
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
