//! The virtual machine: two CPUs, memory, two serial ports, and nothing else.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::cards::Cards;
use super::debian::Kernel;
use super::initramfs::Image;
use crate::proc::{command, step};

/// For a machine that hangs; emulation takes minutes where hardware takes seconds.
const LIMIT: &str = "1500";
/// `timeout`'s exit code for that.
const TIMED_OUT: i32 = 124;

/// Boots it in QEMU, started by that command, shows what it prints, and fails unless its job was done.
pub fn run(qemu: &[OsString], kernel: &Kernel, image: &Image, cards: Option<Cards>) -> Result<()> {
    let accelerator = Accelerator::of_this_machine();
    step(format_args!(
        "kernel {} in qemu, {}",
        kernel.release(),
        accelerator.why()
    ));
    let said = image.path().with_extension("result");
    let started = Instant::now();
    let mut machine = machine(qemu, kernel, image, &accelerator, &said);
    machine.args(cards.map(Cards::flags).unwrap_or_default());
    let status = machine.status();
    let result = fs::read_to_string(&said).unwrap_or_default();
    let _ = fs::remove_file(&said);
    let status = status.context("cannot start timeout, of coreutils")?;
    step(format_args!("after {} s", started.elapsed().as_secs()));
    match (result.trim(), status.code()) {
        ("ended with 0", _) => Ok(()),
        (_, Some(TIMED_OUT)) => bail!("the machine was not done after {LIMIT} s"),
        ("", _) => bail!("the machine stopped before its job was done (qemu: {status})"),
        (ended, _) => bail!("under kernel {} it {ended}", kernel.release()),
    }
}

/// In the foreground, so that Ctrl-C reaches qemu too.
fn machine(
    qemu: &[OsString],
    kernel: &Kernel,
    image: &Image,
    accelerator: &Accelerator,
    said: &Path,
) -> Command {
    let mut machine = command("timeout");
    machine
        .args(["--foreground", LIMIT])
        .args(qemu)
        .args(["-nodefaults", "-no-user-config", "-machine", "q35"])
        .args(["-smp", "2", "-m", "2G", "-display", "none", "-no-reboot"])
        .args(accelerator.flags())
        .args(["-serial", "stdio", "-serial"])
        .arg(format!("file:{}", said.display()))
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(image.path())
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .stdin(Stdio::null());
    machine
}

enum Accelerator {
    Kvm,
    Emulation { why: &'static str },
}

impl Accelerator {
    fn of_this_machine() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu
            .lines()
            .find(|line| line.starts_with("flags"))
            .unwrap_or_default();
        let why = if !flags.split(' ').any(|flag| flag == "vmx" || flag == "svm") {
            // There may still be a /dev/kvm, such as PVM's, which only runs kernels made for it.
            "as this CPU has no virtualization"
        } else if fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            "as /dev/kvm can't be opened"
        } else {
            return Self::Kvm;
        };
        Self::Emulation { why }
    }

    fn why(&self) -> String {
        match self {
            Self::Kvm => "by KVM".into(),
            Self::Emulation { why } => format!("emulated, {why}: this takes minutes"),
        }
    }

    fn flags(&self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Emulation { .. } => &["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}
