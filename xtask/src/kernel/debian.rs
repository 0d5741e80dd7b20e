//! Debian's kernels, unpacked into target/kernels and never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::proc::{ask, command, root, step, succeed};

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

    pub fn image(&self) -> PathBuf {
        self.directory
            .join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The directory that has `lib/modules` in it.
    pub fn root(&self) -> &Path {
        &self.directory
    }
}

/// The newest one of `version`, such as 6.1: from the archive, or unpacked before.
pub fn fetch(version: &str) -> Result<Kernel> {
    let package = newest(&packages(version)).with_context(|| {
        format!("apt knows no kernel {version}: `apt-cache search linux-image` lists the others")
    })?;
    let directory = kernels().join(&package);
    if let Some(kernel) = Kernel::at(directory.clone()) {
        return Ok(kernel);
    }
    step(format_args!("{package}, into {}", kernels().display()));
    unpack(&package, &directory)?;
    match Kernel::at(directory) {
        Some(kernel) => Ok(kernel),
        None => bail!("{package} has no modules in it"),
    }
}

fn kernels() -> PathBuf {
    root().join("target/kernels")
}

/// The kernel for virtual machines: small, with everything that the tests ask for.
fn packages(version: &str) -> String {
    let version = version.replace('.', "\\.");
    let pattern = format!("^linux-image-{version}\\..*[0-9]-cloud-amd64$");
    ask(command("apt-cache").args(["search", "--names-only", &pattern])).unwrap_or_default()
}

/// Of lines like "linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 …".
fn newest(packages: &str) -> Option<String> {
    let names = packages.lines().filter_map(|line| line.split(' ').next());
    let numbers = |name: &str| -> Vec<u32> {
        let parts = name.split(|c: char| !c.is_ascii_digit());
        parts.filter_map(|part| part.parse().ok()).collect()
    };
    names.max_by_key(|name| numbers(name)).map(str::to_owned)
}

fn unpack(package: &str, directory: &Path) -> Result<()> {
    let aside = kernels().join("partial");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let mut download = command("apt-get");
    download
        .args(["--quiet", "download", package])
        .current_dir(&aside);
    succeed(&mut download, "cannot download the kernel")?;
    let archive = fs::read_dir(&aside)?
        .next()
        .context("apt-get downloaded nothing")??;
    let mut extract = command("dpkg-deb");
    extract.arg("--extract").arg(archive.path()).arg(&aside);
    succeed(&mut extract, "cannot unpack the kernel")?;
    fs::remove_file(archive.path())?;
    // The package would have run this when installed. Everything modprobe knows is from here.
    let release = Kernel::at(aside.clone())
        .context("the package has no modules in it")?
        .release;
    let mut index = command("busybox");
    index.args(["depmod", "-b"]).arg(&aside).arg(release);
    succeed(&mut index, "cannot list the kernel's modules")?;
    fs::rename(&aside, directory).with_context(|| format!("cannot make {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_the_one_with_the_largest_numbers() {
        let listed = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud
linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud
linux-image-6.1.0-49-cloud-amd64 - Linux 6.1 for x86-64 cloud\n";
        let newest = newest(listed);
        assert_eq!(newest.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(super::newest(""), None);
    }
}
