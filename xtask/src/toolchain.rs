//! Which rustc compiles the eBPF programs. Two kinds can: a nightly of rustup's, which builds
//! `core` for BPF itself, and a distribution's rustc that ships `core` compiled for BPF.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::proc::{ask, cargo, command};
use crate::rustc::Version;

pub const TARGET: &str = "bpfel-unknown-none";

/// Where distributions put theirs. Not looked up in PATH, where rustup's come first.
const RUSTC: &str = "/usr/bin/rustc";
const CLIPPY: &str = "/usr/bin/cargo-clippy";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nightly,
    Distribution,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Toolchain {
    kind: Kind,
    version: Version,
    why: String,
}

/// A compiler, or in a few words what keeps it from being used.
type Found = Result<Version, String>;

impl Toolchain {
    pub fn find() -> Result<Self> {
        choose(nightly(), distribution()).map_err(|why| {
            anyhow!(
                "no rustc here can compile for BPF ({why}): get one with \
                 `rustup toolchain install nightly --component rust-src`"
            )
        })
    }

    /// The major version of the LLVM that bpf-linker must have too.
    pub fn llvm(&self) -> u32 {
        self.version.llvm
    }

    /// rustup says itself how to add clippy to a nightly.
    pub fn lacks_clippy(&self) -> bool {
        self.kind == Kind::Distribution && !Path::new(CLIPPY).exists()
    }

    /// `cargo SUBCOMMAND` with this compiler.
    pub fn cargo(&self, subcommand: &str) -> Command {
        match (self.kind, subcommand) {
            (Kind::Nightly, _) => {
                let mut cargo = rustup_nightly("cargo");
                cargo.args([subcommand, "-Zbuild-std=core"]);
                cargo
            }
            // Started by cargo's name it would be rustup's, with a driver for another rustc.
            (Kind::Distribution, "clippy") => with_distribution(command(CLIPPY), subcommand),
            (Kind::Distribution, _) => with_distribution(cargo(), subcommand),
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { release, llvm } = &self.version;
        let whose = match self.kind {
            Kind::Nightly => "rustup's nightly",
            Kind::Distribution => "the distribution's",
        };
        write!(f, "{whose} rustc {release} (LLVM {llvm}), as {}", self.why)
    }
}

/// Nightly first: whoever has one with rust-src has it for something like this.
fn choose(nightly: Found, distribution: Found) -> Result<Toolchain, String> {
    let (kind, version, why) = match (nightly, distribution) {
        (Ok(version), _) => (Kind::Nightly, version, "it has rust-src".to_owned()),
        (Err(no), Ok(version)) => (Kind::Distribution, version, no),
        (Err(no), Err(neither)) => return Err(format!("{no}, and {neither}")),
    };
    Ok(Toolchain { kind, version, why })
}

fn nightly() -> Found {
    let version = ask(rustup_nightly("rustc").arg("-vV")).ok_or("rustup has no nightly")?;
    let sysroot = ask(rustup_nightly("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !core.exists() {
        return Err("rustup's nightly has no rust-src".to_owned());
    }
    Version::usable("rustup's nightly", &version)
}

fn distribution() -> Found {
    let version = ask(command(RUSTC).arg("-vV")).ok_or(format!("there is no {RUSTC}"))?;
    let libdir = ["--print", "target-libdir", "--target", TARGET];
    let libdir = ask(command(RUSTC).args(libdir)).unwrap_or_default();
    if !Path::new(libdir.trim()).exists() {
        return Err(format!("{RUSTC} has no core for {TARGET}"));
    }
    Version::usable(RUSTC, &version)
}

fn rustup_nightly(program: &str) -> Command {
    let mut rustup = command("rustup");
    rustup.args(["run", "nightly", program]);
    // To ask whether there is a nightly must not download one.
    rustup.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTC");
    rustup
}

/// aya-ebpf uses unstable features, which a stable compiler has too, but locked.
fn with_distribution(mut cargo: Command, subcommand: &str) -> Command {
    cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
    cargo.arg(subcommand);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        let release = "1.96.0".to_owned();
        Version { release, llvm: 22 }
    }

    #[test]
    fn nightly_with_rust_src_comes_first() {
        let chosen = choose(Ok(version()), Ok(version())).unwrap();
        assert_eq!(chosen.kind, Kind::Nightly);
    }

    #[test]
    fn the_distributions_is_used_for_want_of_nightly_and_says_so() {
        let chosen = choose(Err("no nightly".into()), Ok(version())).unwrap();
        assert_eq!(chosen.kind, Kind::Distribution);
        assert!(chosen.to_string().ends_with("as no nightly"));
    }

    #[test]
    fn without_either_both_reasons_are_given() {
        let neither = choose(Err("no nightly".into()), Err("no core".into()));
        assert_eq!(neither.unwrap_err(), "no nightly, and no core");
    }
}
