//! Debian's kernels, unpacked into target/kernels and never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::Archive;
use crate::proc::{command, root, step, succeed};

/// The two that Debian builds of each kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// For virtual machines: small, with everything that the tests ask for.
    Cloud,
    /// With the drivers of real network cards as well.
    Generic,
}

pub struct Kernel {
    directory: PathBuf,
    release: String,
}

impl Kernel {
    fn at(directory: PathBuf) -> Option<Self> {
        let mut modules = fs::read_dir(directory.join("lib/modules")).ok()?;
        let release = modules.next()?.ok()?.file_name().into_string().ok()?;
        Some(Self { directory, release })
    }

    /// As `uname -r` says it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Newer packages have it beside the modules.
    pub fn image(&self) -> PathBuf {
        let boot = self.directory.join("boot");
        let boot = boot.join(format!("vmlinuz-{}", self.release));
        if boot.exists() {
            return boot;
        }
        self.modules().join("vmlinuz")
    }

    /// The directory that has `lib/modules` in it.
    pub fn root(&self) -> &Path {
        &self.directory
    }

    fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }
}

/// The one of `version`, such as 6.1, that was unpacked before, or else the archive's newest.
pub fn fetch(version: &str, flavour: Flavour) -> Result<Kernel> {
    let directory = kernels().join(format!("{version}{}", flavour.suffix()));
    if let Some(kernel) = Kernel::at(directory.clone()) {
        return Ok(kernel);
    }
    let archive = Archive::open(kernels().join("apt"))?;
    let package = archive.newest(&pattern(version, flavour)).with_context(|| {
        format!("Debian has no kernel {version}: https://packages.debian.org/linux-image tells which")
    })?;
    step(format_args!("{package}, into {}", directory.display()));
    let aside = kernels().join("partial");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    archive.unpack(&package, &aside)?;
    settle(&aside).with_context(|| format!("{package} is not as expected"))?;
    fs::rename(&aside, &directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Kernel::at(directory).context("the kernel went away")
}

fn kernels() -> PathBuf {
    root().join("target/kernels")
}

impl Flavour {
    /// In the names of packages.
    fn suffix(self) -> &'static str {
        match self {
            Self::Cloud => "-cloud",
            Self::Generic => "",
        }
    }
}

/// A digit before the flavour: else the generic one's would find all the others too.
fn pattern(version: &str, flavour: Flavour) -> String {
    let version = version.replace('.', "\\.");
    format!(
        "^linux-image-{version}\\..*[0-9]{}-amd64$",
        flavour.suffix()
    )
}

/// What installing the package would have done, and the same places for all.
fn settle(unpacked: &Path) -> Result<()> {
    let usr = unpacked.join("usr/lib/modules");
    if usr.exists() {
        fs::create_dir_all(unpacked.join("lib"))?;
        fs::rename(usr, unpacked.join("lib/modules"))?;
    }
    let kernel = Kernel::at(unpacked.to_owned()).context("it has no modules in it")?;
    // Here once: in the machine, emulated, it would be each time.
    let mut unxz = command("find");
    unxz.arg(kernel.modules());
    unxz.args(["-name", "*.ko.xz", "-exec", "busybox", "unxz", "{}", "+"]);
    succeed(&mut unxz, "cannot unpack the kernel's modules")?;
    // Everything modprobe knows is from here.
    let mut index = command("busybox");
    index
        .args(["depmod", "-b"])
        .arg(unpacked)
        .arg(kernel.release());
    succeed(&mut index, "cannot list the kernel's modules")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flavour_is_asked_for_by_its_name() {
        let cloud = pattern("6.12", Flavour::Cloud);
        assert_eq!(cloud, "^linux-image-6\\.12\\..*[0-9]-cloud-amd64$");
        let generic = pattern("7", Flavour::Generic);
        assert_eq!(generic, "^linux-image-7\\..*[0-9]-amd64$");
    }
}
