//! Who takes part, and in which version.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::args::Args;
use crate::kind::Kind;
use crate::lab::root::Root;
use crate::peers::Recipe;
use crate::protocol::Protocol;

pub struct Lineup {
    pub kinds: Vec<Kind>,
    versions: Vec<Option<String>>,
}

impl Lineup {
    pub fn new(args: &Args, recipe: &Recipe) -> Result<Self> {
        let kinds = args.contenders();
        let versions = kinds.iter().map(|kind| version(*kind, recipe));
        Ok(Self {
            versions: versions.collect::<Result<_>>()?,
            kinds,
        })
    }

    /// Those who speak it.
    pub fn of(&self, protocol: Protocol) -> Vec<Kind> {
        let kinds = self.kinds.iter().copied();
        kinds.filter(|kind| kind.speaks(protocol)).collect()
    }

    pub fn version(&self, kind: Kind) -> Option<&str> {
        let at = self.kinds.iter().position(|other| *other == kind)?;
        self.versions[at].as_deref()
    }

    /// Name and version.
    pub fn title(&self, kind: Kind) -> String {
        match self.version(kind) {
            Some(version) => format!("{} {version}", kind.name()),
            None => kind.name().to_owned(),
        }
    }
}

fn version(kind: Kind, recipe: &Recipe) -> Result<Option<String>> {
    Ok(match kind {
        Kind::Direct => None,
        Kind::Truepeer | Kind::Daemon => Some(truepeer()?),
        Kind::GoMmproxy | Kind::Haproxy | Kind::Nginx => {
            Some(packaged(recipe.root()?, kind.name())?)
        }
    })
}

/// "truepeer 0.1.0"
fn truepeer() -> Result<String> {
    let output = Command::new(binary()?).arg("--version").output()?;
    let said = String::from_utf8(output.stdout)?;
    let version = said.split_whitespace().nth(1);
    Ok(version.context("truepeer says its version")?.to_owned())
}

pub fn binary() -> Result<std::ffi::OsString> {
    env::var_os("TRUEPEER_BIN")
        .context("set TRUEPEER_BIN to the truepeer binary; `cargo xtask bench` does that")
}

/// A package's version, without what Debian appends to it.
fn packaged(root: &Root, package: &str) -> Result<String> {
    let status = root.path("var/lib/dpkg");
    let mut query = Command::new("dpkg-query");
    query.arg("--admindir").arg(&status);
    query.args(["--show", "--showformat=${source:Upstream-Version}"]);
    let output = query.arg(package).output().context("starting dpkg-query")?;
    ensure!(
        output.status.success(),
        "there is no {package} in {}",
        status.display()
    );
    Ok(String::from_utf8(output.stdout)?)
}
