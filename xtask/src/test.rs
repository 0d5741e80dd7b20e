//! `cargo xtask test [FILTER…]`: every test there is, against a daemon built from these sources.

use std::process::Command;

use anyhow::{Result, bail};

use crate::privilege::{require, run_as_root};
use crate::proc::{cargo, step, succeed};
use crate::traces::Traces;
use crate::{build, setup};

pub fn run(filter: &[String]) -> Result<()> {
    require("test")?;
    setup::run()?;
    build::run()?;
    step("tests of the parts");
    let mut parts = cargo_test(&["--lib", "--bin", "xtask", "--test", "header"]);
    succeed(parts.arg("--").args(filter), "tests failed")?;
    step("tests of the daemon, as root, in network namespaces");
    leaving_no_trace(|| {
        let mut daemon = cargo_test(&["--test", "it"]);
        run_as_root(&mut daemon);
        succeed(daemon.arg("--").args(filter), "tests of the daemon failed")
    })
}

/// The same packages each time, or cargo would build what they share twice.
fn cargo_test(targets: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo.args(["test", "--locked", "--package", "proxy-common"]);
    cargo.args(["--package", "proxy-userspace", "--package", "xtask"]);
    cargo.args(targets);
    cargo
}

fn leaving_no_trace(tests: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = Traces::look()?;
    let tested = tests();
    let left = Traces::look()?.since(&before);
    // First what the tests say: a failed one may well leave things behind.
    if let (Err(_), false) = (&tested, left.is_empty()) {
        step(format_args!("and left behind: {}", left.join(", ")));
    }
    tested?;
    if !left.is_empty() {
        bail!("all tests passed, but left behind: {}", left.join(", "));
    }
    step("the tests left nothing behind");
    Ok(())
}
