//! The two paths that a connection can take, and which one it has taken.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::talk::Talk;
use super::{Lab, poll};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// One connection from balancer to application, in the kernel.
    Direct,
    /// Two, with the daemon's relay between them.
    Daemon,
}

impl Path {
    pub const BOTH: [Self; 2] = [Self::Direct, Self::Daemon];

    /// Of `truepeer run`, so that connections take this path where they can.
    pub const fn args(self) -> &'static [&'static str] {
        match self {
            Self::Direct => &["--direct", "auto"],
            Self::Daemon => &["--direct", "off"],
        }
    }

    /// As `truepeer connections` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Daemon => "daemon",
        }
    }
}

impl Lab {
    /// Waits until the daemon lists the connection, and fails unless it goes by `path`.
    pub fn wait_path(&self, talk: &Talk, path: Path) -> Result<()> {
        // The app may hear of a connection before the daemon lists it.
        let shown = poll::until("the connection to be listed", || {
            let shown = self.shown_of(talk)?;
            Ok(shown.is_object().then_some(shown))
        })?;
        ensure!(
            shown["path"] == path.name(),
            "not by the {} path: {shown:#}",
            path.name()
        );
        Ok(())
    }

    /// What `truepeer connections` says of this one, null if nothing.
    pub fn shown_of(&self, talk: &Talk) -> Result<Value> {
        let balancer = talk.balancer.local_addr()?.to_string();
        let mut shown = self.shown("connections")?;
        let all = shown.as_array_mut().context("an array")?;
        let one = all.iter_mut().find(|one| one["balancer"] == balancer);
        Ok(one.map(Value::take).unwrap_or_default())
    }
}
