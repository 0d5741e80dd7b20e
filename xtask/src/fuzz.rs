//! `cargo xtask fuzz [--secs N] [TARGET…]`: feeds the header parser what nobody would think of.
//!
//! On the stable toolchain: sanitizers are unstable, but in every compiler. What the fuzzer adds
//! to the corpus and what it finds stay in target/fuzz; the corpus in the sources only grows by
//! hand.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::proc::{ask, cargo, command, root, step, succeed};

const VERSION: &str = "0.13.2";

pub fn run(secs: u32, targets: &[String]) -> Result<()> {
    let targets = chosen(targets, known()?)?;
    install()?;
    let mut ran = Vec::new();
    for target in &targets {
        step(format_args!("fuzzing {target} for {secs} s"));
        ran.push(fuzz(target, secs)?);
    }
    step("fuzzing found nothing");
    for (target, runs) in targets.iter().zip(ran) {
        eprintln!("      {target:<8} {runs:>12} runs");
    }
    Ok(())
}

/// Every target in the sources.
fn known() -> Result<Vec<String>> {
    let sources = fuzz_dir().join("fuzz_targets");
    let entries = fs::read_dir(&sources).with_context(|| sources.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let stem = entry?.path().file_stem().map(ToOwned::to_owned);
        names.extend(stem.and_then(|stem| stem.into_string().ok()));
    }
    names.sort();
    Ok(names)
}

/// Those that were asked for, or all.
fn chosen(wanted: &[String], known: Vec<String>) -> Result<Vec<String>> {
    for target in wanted {
        ensure!(
            known.contains(target),
            "there is no fuzz target {target}, only {}",
            known.join(", ")
        );
    }
    Ok(if wanted.is_empty() {
        known
    } else {
        wanted.to_vec()
    })
}

fn install() -> Result<()> {
    let version = ask(command(cargo_fuzz()).arg("--version"));
    if version.is_some_and(|version| version.trim() == format!("cargo-fuzz {VERSION}")) {
        return Ok(());
    }
    step(format_args!("cargo-fuzz {VERSION}, about a minute"));
    let mut install = cargo();
    install
        .args(["install", "cargo-fuzz", "--version", VERSION, "--locked"])
        // Cargo would be content with its record of one that is gone.
        .args(["--force", "--root"])
        .arg(tools())
        .env_remove("CARGO_TARGET_DIR");
    succeed(&mut install, "cargo-fuzz does not build")
}

/// Runs one target and tells how many inputs it has tried.
fn fuzz(target: &str, secs: u32) -> Result<u64> {
    let found = work_dir().join("artifacts").join(target);
    let grown = work_dir().join("corpus").join(target);
    for directory in [&found, &grown] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut fuzzer = command(cargo_fuzz());
    fuzzer.env("RUSTC_BOOTSTRAP", "1").arg("run");
    fuzzer.arg("--fuzz-dir").arg(fuzz_dir());
    fuzzer.arg("--target-dir").arg(work_dir());
    // New inputs go to the first of the two.
    fuzzer.arg(target).arg(grown);
    fuzzer.arg(fuzz_dir().join("corpus").join(target));
    fuzzer.arg("--").arg(format!("-max_total_time={secs}"));
    // The slash makes it a directory.
    fuzzer.arg(format!("-artifact_prefix={}/", found.display()));
    let before = files(&found)?;
    let ran = finish(&mut fuzzer, target);
    match files(&found)?.difference(&before).next() {
        Some(input) => bail!("{target} fails on the input {}", input.display()),
        None => ran,
    }
}

fn files(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// An error may also be that it doesn't compile.
fn finish(fuzzer: &mut Command, target: &str) -> Result<u64> {
    let mut child = fuzzer.stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("stderr is a pipe")?;
    let runs = relay(stderr);
    let status = child.wait()?;
    match runs {
        Some(runs) if status.success() => Ok(runs),
        _ => bail!("fuzzing {target} failed ({status}); what it printed is above"),
    }
}

/// Prints what the fuzzer says, but not its progress; returns the number of runs that it ends with.
fn relay(stderr: ChildStderr) -> Option<u64> {
    let mut runs = None;
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if !line.starts_with('#') {
            eprintln!("{line}");
        }
        runs = runs.or(done(&line));
    }
    runs
}

/// From `Done 4194304 runs in 31 second(s)`.
fn done(line: &str) -> Option<u64> {
    let (runs, _) = line.strip_prefix("Done ")?.split_once(" runs in ")?;
    runs.parse().ok()
}

fn cargo_fuzz() -> PathBuf {
    tools().join("bin/cargo-fuzz")
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

fn fuzz_dir() -> PathBuf {
    root().join("proxy-userspace/fuzz")
}

fn work_dir() -> PathBuf {
    root().join("target/fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_are_the_default_and_an_unknown_one_is_named() {
        let known = || vec!["v1".to_owned(), "v2".to_owned()];
        assert_eq!(chosen(&[], known()).unwrap(), known());
        assert_eq!(chosen(&["v2".into()], known()).unwrap(), ["v2"]);
        let unknown = chosen(&["v3".into()], known()).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "there is no fuzz target v3, only v1, v2"
        );
    }

    #[test]
    fn the_number_of_runs_is_read() {
        assert_eq!(done("Done 4194304 runs in 31 second(s)"), Some(4_194_304));
        assert_eq!(done("#4194304 DONE cov: 312"), None);
    }
}
