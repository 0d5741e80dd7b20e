//! Debian's archive of kernels, by an apt of our own: this machine's knows the kernels of its own
//! release only, and must not come to install anything from another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::proc::{ask, command, step, succeed};

/// One release after another: whichever has a kernel of the version that is asked for. Only the
/// lists of packages, as they are large enough.
const SOURCES: &str = "\
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm trixie sid
Components: main
Architectures: amd64
Targets: Packages
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security trixie-security
Components: main
Architectures: amd64
Targets: Packages
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// Newer packages are split: the named one is empty and depends on these.
const PARTS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];

pub struct Archive(PathBuf);

impl Archive {
    /// Everything of it is below `directory`. Fetches the lists of packages.
    pub fn open(directory: PathBuf) -> Result<Self> {
        let archive = Self(directory);
        for needed in ["lists/partial", "cache/archives/partial"] {
            let path = archive.0.join(needed);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        fs::write(archive.sources(), SOURCES).context("cannot write the archive's sources")?;
        step("the list of Debian's kernels");
        let mut update = archive.apt("apt-get");
        update.args(["--quiet", "--error-on=any", "update"]);
        succeed(&mut update, "cannot list Debian's packages")?;
        Ok(archive)
    }

    /// Of the packages with such a name, the one with the largest numbers.
    pub fn newest(&self, pattern: &str) -> Option<String> {
        let mut search = self.apt("apt-cache");
        newest(&ask(search.args(["search", "--names-only", pattern]))?)
    }

    /// Unpacks the package into `directory`, with those that it is split into.
    pub fn unpack(&self, package: &str, directory: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["--quiet", "download", package]);
        download.args(self.parts(package)).current_dir(directory);
        succeed(&mut download, "cannot download the kernel")?;
        for archive in archives(directory)? {
            let mut extract = command("dpkg-deb");
            extract.arg("--extract").arg(&archive).arg(directory);
            succeed(&mut extract, "cannot unpack the kernel")?;
            fs::remove_file(archive)?;
        }
        Ok(())
    }

    fn parts(&self, package: &str) -> Vec<String> {
        let mut depends = self.apt("apt-cache");
        parts(&ask(depends.args(["depends", package])).unwrap_or_default())
    }

    fn sources(&self) -> PathBuf {
        self.0.join("debian.sources")
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = command(program);
        let set = |name: &str, path: &Path| format!("-oDir::{name}={}", path.display());
        apt.arg(set("Etc::sourcelist", &self.sources()));
        apt.arg("-oDir::Etc::sourceparts=-");
        apt.arg(set("State::lists", &self.0.join("lists")));
        apt.arg(set("Cache", &self.0.join("cache")));
        // Its own user couldn't read below somebody's home.
        apt.args(["-oAPT::Sandbox::User=root", "-oAcquire::Languages=none"]);
        apt
    }
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    ensure!(!found.is_empty(), "apt-get downloaded nothing");
    Ok(found)
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

/// Of what `apt-cache depends` says.
fn parts(depends: &str) -> Vec<String> {
    let lines = depends.lines().map(str::trim_start);
    let needed = lines.filter_map(|line| line.strip_prefix("Depends: "));
    let parts = needed.filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
    parts.map(str::to_owned).collect()
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

    #[test]
    fn a_split_package_has_its_parts_with_it() {
        let depends = "linux-image-7.2.13+deb14-amd64\n  PreDepends: linux-base\n |Depends: dracut
  Depends: linux-base-7.2.13+deb14-amd64\n  Depends: linux-modules-7.2.13+deb14-amd64
  Suggests: linux-doc-7.2\n";
        let wanted = [
            "linux-base-7.2.13+deb14-amd64",
            "linux-modules-7.2.13+deb14-amd64",
        ];
        assert_eq!(parts(depends), wanted);
    }
}
