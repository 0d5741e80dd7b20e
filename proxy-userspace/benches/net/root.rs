//! Programs from another release of Debian's, started as they are, without a chroot: by that
//! release's own dynamic linker and with its libraries, and otherwise in this system.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

#[derive(Clone)]
pub struct Root(PathBuf);

impl Root {
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// It costs nothing once the program runs.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path("usr/bin/ld.so"));
        let libraries = self.path("usr/lib").join(format!("{ARCH}-linux-gnu"));
        command.args(["--inhibit-cache", "--library-path"]);
        command.arg(libraries).arg(self.path(program));
        command
    }

    /// A package's, without what Debian appends to it.
    pub fn version(&self, package: &str) -> Result<String> {
        let mut query = Command::new("dpkg-query");
        query.arg("--admindir").arg(self.path("var/lib/dpkg"));
        query.args(["--show", "--showformat=${source:Upstream-Version}"]);
        let output = query.arg(package).output().context("starting dpkg-query")?;
        ensure!(
            output.status.success(),
            "there is no {package} in {}",
            self.0.display()
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}
