//! `cargo xtask test --kernel VERSION`: tests of the daemon under another kernel of Debian's, in a
//! virtual machine that has no disk and no network, only an initramfs with what the tests use.

mod archive;
mod cards;
mod cpio;
mod debian;
mod initramfs;
mod job;
mod machine;

use std::ffi::OsString;
use std::fs::File;

use anyhow::{Context, Result};
use clap::Args;

use crate::proc::{step, target_dir};
use crate::{build, setup, test};
use cards::Cards;
use debian::{Flavour, Kernel};
use initramfs::Image;
use job::Job;

#[derive(Args)]
pub struct Options {
    /// Under Debian's kernels of these versions, such as 6.1 or 6.12,7, in a virtual machine
    #[arg(long = "kernel", value_name = "VERSION", value_delimiter = ',')]
    kernels: Vec<String>,
    /// There, run no tests: only load the programs and attach them, by `truepeer check`
    #[arg(long, requires = "kernels")]
    load: bool,
    /// There, join the lab's balancer and host by two cards of this kind instead of a veth pair
    #[arg(
        long,
        value_name = "KIND",
        requires = "kernels",
        conflicts_with = "load"
    )]
    cards: Option<Cards>,
}

impl Options {
    pub fn asked_for(&self) -> bool {
        !self.kernels.is_empty()
    }

    fn flavour(&self) -> Flavour {
        match self.cards {
            Some(Cards::E1000e) => Flavour::Generic,
            Some(Cards::Virtio) | None => Flavour::Cloud,
        }
    }

    fn job(&self, filter: &[String], all: bool) -> Result<Job> {
        if self.load {
            return Ok(Job::load());
        }
        Ok(Job::tests(&test::build_it()?, filter, self.cards, all))
    }
}

/// All of the kernels, even if the first fails: one run tells which do.
pub fn run(options: &Options, filter: &[String], all: bool) -> Result<()> {
    let alone = alone()?;
    let qemu = setup::for_kernels()?;
    build::run()?;
    let job = options.job(filter, all)?;
    let kernels = options.kernels.iter();
    let kernels = kernels.map(|version| debian::fetch(version, options.flavour()));
    let kernels = kernels.collect::<Result<Vec<_>>>()?;
    drop(alone);
    let mut done = Ok(());
    for kernel in &kernels {
        done = done.and(under(kernel, &qemu, &job, options.cards));
    }
    done
}

/// Machines may run side by side, but what they need is installed and unpacked by one at a time: until the file is closed.
fn alone() -> Result<File> {
    let path = target_dir().join("kernels.lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.lock().context("cannot wait for another run")?;
    Ok(file)
}

fn under(kernel: &Kernel, qemu: &[OsString], job: &Job, cards: Option<Cards>) -> Result<()> {
    step(format_args!("an initramfs for {}", kernel.release()));
    let image = Image::make(kernel, job)?;
    machine::run(qemu, kernel, &image, cards)
}
