//! `cargo xtask run -- ARGS`: the daemon as it is in the sources now.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::build;
use crate::privilege::{as_root, require};
use crate::proc::{step, truepeer};

pub fn run(args: &[OsString]) -> Result<()> {
    require("run")?;
    build::run()?;
    step("truepeer");
    let truepeer = truepeer();
    let mut daemon = as_root(truepeer.to_str().context("the path here is not UTF-8")?);
    // In our place: signals reach it, and its exit code is the one that counts. From where it
    // was typed, so that relative paths in ARGS mean what they say.
    daemon.current_dir(std::env::current_dir()?);
    let error = daemon.args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", truepeer.display()))
}
