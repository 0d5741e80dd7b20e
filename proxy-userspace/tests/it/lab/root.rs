//! Programs from another release of Debian's, started as they are, without a chroot: by that
//! release's own dynamic linker and with its libraries, and otherwise in this system.

use std::env::{self, consts::ARCH};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

#[derive(Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The one for tests.
    pub fn of_peers() -> Result<Self> {
        let directory = env::var_os("TRUEPEER_PEERS").context(
            "set TRUEPEER_PEERS to where newer senders are; `cargo xtask test` does that",
        )?;
        Ok(Self::new(Path::new(&directory)))
    }

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
}
