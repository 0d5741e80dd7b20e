//! truepeer's peers for the bench, senders that can more than this machine's and an emulator that is
//! right: the newest that a Debian release has, in a root of their own under target/. Nothing of it is
//! installed here.

use std::env::consts::ARCH;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::privilege::{as_root, consent};
use crate::proc::{ask, command, root, step, succeed};

/// Debian's newest stable release.
const RELEASE: &str = "trixie";
const PACKAGES: [&str; 5] = [
    "go-mmproxy",
    "haproxy",
    "libnginx-mod-stream",
    "nginx",
    "qemu-system-x86",
];
/// Where apt has no mirror of Debian's that it prefers.
const MIRROR: &str = "http://deb.debian.org/debian";
/// Runs as root, as debootstrap does.
const BOOTSTRAP: &str = include_str!("peers.sh");

/// The root, made first where it isn't there. Remove it to get what is newer by then.
pub fn ensure() -> Result<PathBuf> {
    let directory = root().join("target/peers").join(RELEASE);
    if !PACKAGES.iter().all(|package| has(&directory, package)) {
        bootstrap(&directory)?;
    }
    Ok(directory)
}

/// As that root's dpkg sees it.
fn has(directory: &Path, package: &str) -> bool {
    let files = Path::new("var/lib/dpkg/info").join(format!("{package}.list"));
    directory.join(files).exists()
}

/// A program of the root's, started as it is, without a chroot: by the root's own dynamic linker and
/// with its libraries, and otherwise in this system.
pub fn program(directory: &Path, path: &str) -> Vec<OsString> {
    let libraries = directory.join("usr/lib").join(format!("{ARCH}-linux-gnu"));
    vec![
        directory.join("usr/bin/ld.so").into(),
        "--inhibit-cache".into(),
        "--library-path".into(),
        libraries.into(),
        directory.join(path).into(),
    ]
}

fn bootstrap(directory: &Path) -> Result<()> {
    let parent = directory.parent().context("a root has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    step(format_args!(
        "the peers of Debian {RELEASE}, a minute, into {}",
        directory.display()
    ));
    anyhow::ensure!(
        consent("    make that root"),
        "without root there are none: run this as root, or bench without them by --contender"
    );
    let targets =
        ask(command("apt-get").args(["indextargets", "--format", "$(LABEL) $(REPO_URI)"]));
    let mut bootstrap = as_root("unshare");
    bootstrap.args(["--mount", "sh", "-euc", BOOTSTRAP, "peers.sh"]);
    bootstrap
        .arg(directory)
        .args([RELEASE, mirror(&targets.unwrap_or_default())]);
    bootstrap.arg(PACKAGES.join(","));
    succeed(&mut bootstrap, "the peers can't be had")
}

/// The one that apt is set up for, in lines of "Debian http://mirror/debian/".
fn mirror(targets: &str) -> &str {
    let debian = targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian "));
    debian.map_or(MIRROR, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_among_all_of_apts() {
        let targets = "Debian-Security http://security.example/\n\
                       Debian http://mirror.example/debian/\n\
                       . nodistro http://other.example/\n";
        assert_eq!(mirror(targets), "http://mirror.example/debian/");
        assert_eq!(mirror(". nodistro http://other.example/\n"), MIRROR);
        assert_eq!(mirror(""), MIRROR);
    }
}
