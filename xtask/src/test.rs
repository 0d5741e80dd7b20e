//! `cargo xtask test [--all] [FILTER…]`: every test there is, against a daemon built from these sources.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::knobs::{BACKLOG, SHORT_GRACE_PERIODS};
use crate::privilege::{require, run_as_root};
use crate::proc::{cargo, step, succeed};
use crate::traces::Traces;
use crate::{build, setup};

/// Set where tests are to try as much as is promised.
pub const FULL: &str = "TRUEPEER_FULL";

/// Set to the root that has newer senders in it than this system may have.
const PEERS: &str = "TRUEPEER_PEERS";

/// How many tests run at once, for libtest.
const THREADS: &str = "RUST_TEST_THREADS";
/// For each CPU. A test in a lab waits for most of its time, for the kernel to be done with what
/// others may still look at: devices, namespaces, attached programs.
const THREADS_PER_CPU: usize = 3;

/// In names of tests that look at what happens while programs and devices go or are handed on. Short
/// grace periods would leave them little to look at.
const AT_THE_KERNELS_PACE: [&str; 6] = [
    "deaths",
    "take_over::",
    "leaks::",
    "lives::",
    "killed::",
    "untouched::",
];

/// With `all`, in full: up to an hour, and at the kernel's own pace.
pub fn run(filter: &[String], all: bool) -> Result<()> {
    require("test")?;
    let peers = setup::for_tests()?;
    build::run()?;
    step("tests of the parts");
    let full = all.then_some((FULL, "1"));
    let mut parts = cargo_test(&["--lib", "--bin", "xtask", "--test", "header"]);
    parts.envs(full);
    succeed(parts.arg("--").args(filter), "tests failed")?;
    step("tests of the daemon, as root, in network namespaces");
    let daemon = |args: &[String]| {
        let mut daemon = cargo_test(&["--test", "it"]);
        if env::var_os(THREADS).is_none() {
            let cpus = available_parallelism().map_or(1, usize::from);
            daemon.env(THREADS, (cpus * THREADS_PER_CPU).to_string());
        }
        run_as_root(daemon.envs(full).env(PEERS, &peers));
        succeed(daemon.arg("--").args(args), "tests of the daemon failed")
    };
    let _backlog = BACKLOG.hold()?;
    leaving_no_trace(|| match filter {
        [] if !all => {
            let paced = daemon(&AT_THE_KERNELS_PACE.map(str::to_owned));
            let others = AT_THE_KERNELS_PACE.map(|name| format!("--skip={name}"));
            let _short = SHORT_GRACE_PERIODS.hold()?;
            paced.and(daemon(&others))
        }
        _ => daemon(filter),
    })
}

/// Compiles the tests of the daemon, and says where they are.
pub fn build_it() -> Result<PathBuf> {
    step("the tests of the daemon");
    let mut build = cargo_test(&["--test", "it"]);
    build.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let output = build.stderr(Stdio::inherit()).output();
    let output = output.context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not compile");
    let said = String::from_utf8_lossy(&output.stdout);
    executable(&said, "it").context("cargo doesn't say where the tests are")
}

/// In cargo's messages, one a line.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let messages = messages.lines().flat_map(serde_json::from_str::<Value>);
    let mut built = messages.filter(|message| message["target"]["name"] == target);
    built.find_map(|message| message["executable"].as_str().map(PathBuf::from))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_a_test_is() {
        let said = r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"it"},"executable":"/t/it-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(said, "it"), Some("/t/it-1".into()));
        assert_eq!(executable(said, "header"), None);
    }
}
