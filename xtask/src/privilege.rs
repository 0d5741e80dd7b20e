//! Root: what needs it, and how to come by it.

use std::env;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Result, bail};

use crate::proc::{command, exists, truepeer};

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Says before a long build what would only fail after it.
pub fn require(task: &str) -> Result<()> {
    if !is_root() && !exists("sudo") {
        bail!(
            "`cargo xtask {task}` makes network namespaces and loads eBPF programs, for which it \
             needs root: run it as root, or install sudo"
        );
    }
    Ok(())
}

/// The program, started as root.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return command(program);
    }
    let mut sudo = command("sudo");
    sudo.arg(program);
    sudo
}

/// How variables begin that are for what runs as root.
const OURS: [&str; 2] = ["TRUEPEER_", "RUST_TEST_"];

/// Lets a `cargo run` or `cargo test` start what it built as root, with the daemon's path in
/// `TRUEPEER_BIN`. Cargo itself stays who it is: root's files in target/ would be in the way.
pub fn run_as_root(cargo: &mut Command) {
    cargo.env("TRUEPEER_BIN", truepeer());
    if is_root() {
        return;
    }
    // By env: sudo may be set up to drop variables, in spite of -E.
    let ours = cargo
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?, value?)));
    let ours = ours.filter(|(name, _)| OURS.iter().any(|start| name.starts_with(start)));
    let ours = ours.map(|(name, value)| format!(", '{name}={}'", value.display()));
    let ours: String = ours.collect();
    let runner = format!("target.'cfg(unix)'.runner=['sudo', '-E', 'env'{ours}]");
    cargo.args(["--config", &runner]);
}

/// Whether we may change this machine as root. Somebody at a terminal is asked, CI is not.
pub fn consent(what: &str) -> bool {
    if is_root() || (exists("sudo") && env::var_os("CI").is_some()) {
        return true;
    }
    exists("sudo") && io::stdin().is_terminal() && asked(what)
}

fn asked(what: &str) -> bool {
    eprint!("{what} with sudo? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
