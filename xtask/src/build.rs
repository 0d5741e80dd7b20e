//! `cargo xtask build`: the daemon with the eBPF programs in it, target/release/truepeer.

use anyhow::Result;

use crate::build_ebpf;
use crate::proc::{cargo, step, succeed, truepeer};

pub fn run() -> Result<()> {
    build_ebpf::run()?;
    step(format_args!("the daemon, {}", truepeer().display()));
    let mut build = cargo();
    build.args(["build", "--release", "--locked"]);
    build.args(["--package", "proxy-userspace"]);
    succeed(&mut build, "the daemon does not compile")
}
