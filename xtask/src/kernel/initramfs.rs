//! What the machine boots into: the tests, the daemon, the few programs that tests start, the
//! libraries of all these, and the kernel's modules for networks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::debian::Kernel;
use crate::proc::{ask, command, find, target_dir, truepeer};

/// Of this machine, for tests to start.
const PROGRAMS: [&str; 8] = [
    "bpftool", "curl", "ip", "nft", "nsenter", "sysctl", "tc", "unshare",
];
/// What busybox does for `init.sh`, and for the kernel when it wants a module.
const BUSYBOX: [&str; 7] = [
    "cut", "echo", "modprobe", "mount", "poweroff", "sh", "uname",
];
/// Where the kernel has what networks are made of.
const MODULES: [&str; 5] = ["arch/x86/crypto", "crypto", "drivers/net", "lib", "net"];
const INIT: &[u8] = include_bytes!("init.sh");
const DIRECTORIES: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// The file; gone when dropped.
pub struct Image(PathBuf);

impl Image {
    pub fn make(kernel: &Kernel, tests: &Path, filter: &[String]) -> Result<Self> {
        let path = target_dir().join(format!("initramfs-{}", std::process::id()));
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let image = Self(path);
        let mut contents = Contents {
            archive: Archive::new(BufWriter::new(file)),
            there: BTreeSet::new(),
        };
        contents.fill(kernel, tests, filter)?;
        contents.archive.finish()?;
        Ok(image)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It is in target/, where nobody minds a left-over.
        let _ = fs::remove_file(&self.0);
    }
}

struct Contents {
    archive: Archive<BufWriter<File>>,
    there: BTreeSet<PathBuf>,
}

impl Contents {
    fn fill(&mut self, kernel: &Kernel, tests: &Path, filter: &[String]) -> Result<()> {
        for directory in DIRECTORIES {
            self.directory(Path::new(directory))?;
        }
        self.add(Path::new("/bin/busybox"), &find("busybox")?)?;
        for name in BUSYBOX {
            self.archive.symlink(&format!("bin/{name}"), "busybox")?;
        }
        for name in PROGRAMS {
            self.program(&Path::new("/usr/bin").join(name), &find(name)?)?;
        }
        self.program(Path::new("/usr/bin/truepeer"), &truepeer())?;
        self.program(Path::new("/usr/bin/tests"), tests)?;
        // nft reads the names of protocols there.
        let protocols = Path::new("/etc/protocols");
        self.add(protocols, protocols)?;
        self.modules(kernel)?;
        self.archive.file("init", INIT)?;
        let lines: Vec<_> = filter.iter().map(|line| format!("{line}\n")).collect();
        Ok(self.archive.file("arguments", lines.concat().as_bytes())?)
    }

    /// With the libraries that it needs, where it looks for them.
    fn program(&mut self, to: &Path, from: &Path) -> Result<()> {
        self.add(to, from)?;
        let libraries = ask(command("ldd").arg(from)).unwrap_or_default();
        for library in paths(&libraries) {
            self.add(library, library)?;
        }
        Ok(())
    }

    fn modules(&mut self, kernel: &Kernel) -> Result<()> {
        let all = Path::new("lib/modules").join(kernel.release());
        for entry in fs::read_dir(kernel.root().join(&all))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                self.add(
                    &Path::new("/").join(&all).join(entry.file_name()),
                    &entry.path(),
                )?;
            }
        }
        for directory in MODULES {
            self.tree(kernel.root(), &all.join("kernel").join(directory))?;
        }
        Ok(())
    }

    fn tree(&mut self, root: &Path, directory: &Path) -> Result<()> {
        let from = root.join(directory);
        let listed = fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))?;
        for entry in listed {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.tree(root, &path)?;
            } else {
                self.add(&Path::new("/").join(&path), &entry.path())?;
            }
        }
        Ok(())
    }

    /// Once, however many programs need it.
    fn add(&mut self, to: &Path, from: &Path) -> Result<()> {
        let to = to.strip_prefix("/")?;
        if !self.there.insert(to.to_owned()) {
            return Ok(());
        }
        if let Some(directory) = to.parent() {
            self.directory(directory)?;
        }
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(self.archive.file(name(to)?, &content)?)
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        Ok(self.archive.directory(name(path)?)?)
    }
}

fn name(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(name) => Ok(name),
        None => bail!("{} is not UTF-8", path.display()),
    }
}

/// The files in what ldd says: "libc.so.6 => /lib/libc.so.6 (0x…)" or "/lib64/ld.so (0x…)".
fn paths(ldd: &str) -> impl Iterator<Item = &Path> {
    let words = ldd.lines().flat_map(str::split_whitespace);
    words.map(Path::new).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_absolute_paths() {
        let said =
            "\tlinux-vdso.so.1 (0x1)\n\tlibm.so.6 => /lib/libm.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        let found: Vec<_> = paths(said).collect();
        assert_eq!(
            found,
            [Path::new("/lib/libm.so.6"), Path::new("/lib64/ld.so")]
        );
        assert_eq!(paths("\tnot a dynamic executable\n").count(), 0);
    }
}
