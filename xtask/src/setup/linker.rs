//! bpf-linker, which makes one eBPF object out of rustc's bitcode.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::Value;

use super::apt::Apt;
use super::packages;
use crate::proc::{ask, cargo, command, root, step, succeed};

const VERSION: &str = "0.13.0";

pub fn path() -> PathBuf {
    tools().join("bin/bpf-linker")
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Builds it, unless there is one with this major version of LLVM.
pub fn ensure(apt: &mut Apt, llvm: u32) -> Result<()> {
    if is_there(llvm) {
        return Ok(());
    }
    let prefix = prefix(apt, llvm)?;
    step(format_args!(
        "bpf-linker {VERSION} with LLVM {llvm}, about a minute"
    ));
    let mut install = cargo();
    install
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .args(["--no-default-features", "--features", &feature(llvm)])
        // Cargo would be content with one that is there but misses its LLVM.
        .args(["--force", "--root"])
        .arg(tools())
        .env("LLVM_PREFIX", prefix)
        .env_remove("CARGO_TARGET_DIR");
    succeed(&mut install, "bpf-linker does not build")
}

/// It was built with this LLVM, and the library it was linked to is still on the system.
fn is_there(llvm: u32) -> bool {
    // Cargo's own record: one that was installed by hand counts as well.
    let record = fs::read_to_string(tools().join(".crates2.json")).unwrap_or_default();
    built_with(&record, &feature(llvm)) && ask(command(path()).arg("--version")).is_some()
}

fn built_with(record: &str, feature: &str) -> bool {
    let record: Value = serde_json::from_str(record).unwrap_or_default();
    let wanted = format!("bpf-linker {VERSION} ");
    let installs = record["installs"].as_object();
    installs.into_iter().flatten().any(|(name, how)| {
        let features = how["features"].as_array();
        name.starts_with(&wanted) && features.is_some_and(|all| all.iter().any(|f| f == feature))
    })
}

fn feature(llvm: u32) -> String {
    format!("llvm-{llvm}")
}

/// Where that LLVM's headers and libraries are.
fn prefix(apt: &mut Apt, llvm: u32) -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    apt.ensure(&packages::llvm(&format!("llvm-{llvm}-dev")))?;
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("bin/llvm-config").exists() {
        bail!(
            "bpf-linker needs LLVM {llvm} with its headers: install it, and run \
             `LLVM_PREFIX=/where/it/is cargo xtask setup`"
        );
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: &str, feature: &str) -> String {
        let name = format!("bpf-linker {version} (registry+https://example.org)");
        serde_json::json!({ "installs": { name: { "features": [feature] } } }).to_string()
    }

    #[test]
    fn the_same_version_with_the_same_llvm_will_do() {
        assert!(built_with(&record(VERSION, "llvm-22"), "llvm-22"));
    }

    #[test]
    fn another_version_another_llvm_or_no_record_will_not() {
        assert!(!built_with(&record(VERSION, "llvm-22"), "llvm-23"));
        assert!(!built_with(&record("0.12.0", "llvm-22"), "llvm-22"));
        assert!(!built_with("", "llvm-22"));
    }
}
