//! How every task starts other programs: from the repository's root, output streaming through,
//! and a failure that names the program.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a directory of the repository")
}

/// Where cargo puts what runs on this machine; `CARGO_TARGET_DIR` counts. What is compiled for
/// the kernel, and the tools for that, are always under [`root`]`/target`.
pub fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The daemon as `cargo xtask build` leaves it.
pub fn truepeer() -> PathBuf {
    target_dir().join("release/truepeer")
}

/// One line that says what happens next.
pub fn step(what: impl std::fmt::Display) {
    eprintln!("==> {what}");
}

pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this xtask.
pub fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end. Anything but exit code 0 is an error, which starts with `failed`.
pub fn succeed(command: &mut Command, failed: &str) -> Result<()> {
    let name = name(command);
    let status = command
        .status()
        .with_context(|| format!("{failed}: cannot start {name}"))?;
    if !status.success() {
        bail!("{failed}: {name} ended with {status}; what it printed is above");
    }
    Ok(())
}

/// What the command prints, or `None` when it isn't there or fails. For questions only.
pub fn ask(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Whether there is such a program.
pub fn exists(program: &str) -> bool {
    find(program).is_ok()
}

/// The program's path. Debian keeps the /sbin directories out of a user's PATH.
pub fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no program {program} here"))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    name.to_string_lossy().into_owned()
}
