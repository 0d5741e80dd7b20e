//! What the machine boots into: the tests, the daemon, the few programs that tests start, the
//! libraries of all these, and the kernel's modules for networks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::debian::Kernel;
use super::job::Job;
use crate::proc::{ask, command, find, target_dir};

/// What busybox does for `init.sh` and `load.sh`, and for the kernel when it wants a module.
const BUSYBOX: [&str; 10] = [
    "cat", "cut", "echo", "env", "httpd", "modprobe", "mount", "poweroff", "sh", "uname",
];
/// Where the kernel has what networks are made of, as far as it has something there.
const MODULES: [&str; 9] = [
    "arch/x86/crypto",
    "crypto",
    "drivers/net",
    "drivers/net/ethernet/intel/e1000e",
    "drivers/pps",
    "drivers/ptp",
    "drivers/virtio",
    "lib",
    "net",
];
/// Below them, the drivers of what this machine hasn't got.
const ABSENT: [&str; 12] = [
    "drivers/net/can",
    "drivers/net/dsa",
    "drivers/net/ethernet",
    "drivers/net/ieee802154",
    "drivers/net/phy",
    "drivers/net/usb",
    "drivers/net/wan",
    "drivers/net/wireless",
    "drivers/net/wwan",
    "net/bluetooth",
    "net/mac80211",
    "net/wireless",
];
const INIT: &[u8] = include_bytes!("init.sh");
const LOAD: &[u8] = include_bytes!("load.sh");
const DIRECTORIES: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// The file; gone when dropped.
pub struct Image(PathBuf);

impl Image {
    pub fn make(kernel: &Kernel, job: &Job) -> Result<Self> {
        let path = target_dir().join(format!("initramfs-{}", std::process::id()));
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let image = Self(path);
        let mut contents = Contents {
            archive: Archive::new(BufWriter::new(file)),
            there: BTreeSet::new(),
        };
        contents.fill(kernel, job)?;
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
    fn fill(&mut self, kernel: &Kernel, job: &Job) -> Result<()> {
        for directory in DIRECTORIES {
            self.directory(Path::new(directory))?;
        }
        self.add(Path::new("/bin/busybox"), &find("busybox")?)?;
        for name in BUSYBOX {
            self.archive.symlink(&format!("bin/{name}"), "busybox")?;
        }
        let usr_bin = Path::new("/usr/bin");
        for name in job.programs {
            self.program(&usr_bin.join(name), &find(name)?)?;
        }
        for (name, built) in &job.built {
            self.program(&usr_bin.join(name), built)?;
        }
        // nft reads the names of protocols there, tests of permissions those of groups.
        for names in ["/etc/protocols", "/etc/group", "/etc/passwd"].map(Path::new) {
            self.add(names, names)?;
        }
        // Without it, openssl makes no certificates.
        let settings = Path::new("/usr/lib/ssl/openssl.cnf");
        self.add(settings, settings)?;
        self.modules(kernel)?;
        self.archive.file("init", INIT)?;
        self.archive.file("load", LOAD)?;
        let words: Vec<_> = job.command.iter().map(|word| format!("{word}\n")).collect();
        Ok(self.archive.file("command", words.concat().as_bytes())?)
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
            let is_list = entry.file_name().to_string_lossy().starts_with("modules.");
            if is_list {
                self.add(
                    &Path::new("/").join(&all).join(entry.file_name()),
                    &entry.path(),
                )?;
            }
        }
        for directory in MODULES {
            let directory = all.join("kernel").join(directory);
            if kernel.root().join(&directory).exists() {
                self.tree(kernel.root(), &directory)?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, root: &Path, directory: &Path) -> Result<()> {
        let from = root.join(directory);
        let listed = fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))?;
        for entry in listed {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if !entry.file_type()?.is_dir() {
                self.add(&Path::new("/").join(&path), &entry.path())?;
            } else if !ABSENT.iter().any(|absent| path.ends_with(absent)) {
                self.tree(root, &path)?;
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
