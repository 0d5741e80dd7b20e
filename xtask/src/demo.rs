//! `cargo xtask demo`: shows truepeer at work between real programs on this machine.

use anyhow::Result;

use crate::privilege::{require, run_as_root};
use crate::proc::{cargo, step, succeed};
use crate::{build, setup};

pub fn run() -> Result<()> {
    require("demo")?;
    setup::run()?;
    build::run()?;
    step("the demo");
    let mut demo = cargo();
    demo.args(["run", "--release", "--locked"]);
    demo.args(["--package", "proxy-userspace", "--example", "demo"]);
    run_as_root(&mut demo);
    succeed(&mut demo, "the demo failed")
}
