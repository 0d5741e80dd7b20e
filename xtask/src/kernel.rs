//! `cargo xtask test --kernel VERSION`: tests of the daemon under an older kernel of Debian's, in
//! a virtual machine that has no disk and no network, only an initramfs with what the tests use.

mod cpio;
mod debian;
mod initramfs;
mod machine;

use anyhow::Result;

use crate::proc::step;
use crate::{build, setup, test};
use initramfs::Image;

/// What a kernel makes a difference to, as far as it needs no programs but those in the image.
const DEFAULT: [&str; 8] = [
    "allowlist",
    "apps::an_echo",
    "apps::app_knows",
    "apps::bound_to",
    "lifecycle",
    "qdiscs",
    "steering",
    "untouched",
];

pub fn run(version: &str, filter: &[String]) -> Result<()> {
    setup::run_with_kernels()?;
    build::run()?;
    let tests = test::build_it()?;
    let kernel = debian::fetch(version)?;
    step(format_args!("an initramfs for {}", kernel.release()));
    let filter = match filter {
        [] => DEFAULT.map(str::to_owned).to_vec(),
        chosen => chosen.to_vec(),
    };
    let image = Image::make(&kernel, &tests, &filter)?;
    machine::run(&kernel, &image)
}
