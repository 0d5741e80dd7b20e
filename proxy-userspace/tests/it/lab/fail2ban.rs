//! fail2ban, with the jail that its package has for sshd.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::netns::Netns;
use super::proc::Proc;

pub struct Fail2ban {
    proc: Proc,
    _dir: TempDir,
}

impl Fail2ban {
    /// Reads sshd's log at `log`, and bans at ports `port` by `action`; `more` is an action of our own, of
    /// that name.
    pub fn start(
        netns: &Netns,
        log: &Path,
        port: u16,
        action: &str,
        more: Option<&str>,
    ) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("config");
        let copied = Command::new("cp")
            .args(["-r", "/etc/fail2ban"])
            .arg(&config)
            .status()?;
        ensure!(copied.success(), "fail2ban has no configuration");
        fs::remove_dir_all(config.join("jail.d"))?;
        if let Some(more) = more {
            let path = config.join("action.d").join(action);
            fs::write(path.with_extension("conf"), more)?;
        }
        fs::write(config.join("fail2ban.local"), "[DEFAULT]\ndbfile = None\n")?;
        // The log's lines need no time.
        let jail = format!(
            "[DEFAULT]
banaction = {action}
[sshd]
enabled = true
backend = polling
datepattern = {{NONE}}
logpath = {log}
port = {port}
maxretry = 1
",
            log = log.display()
        );
        fs::write(config.join("jail.local"), jail)?;
        let mut command = Command::new("fail2ban-server");
        command.args(["-f", "--logtarget", "STDOUT", "--loglevel", "INFO"]);
        command.arg("-c").arg(&config);
        command.arg("-s").arg(dir.path().join("sock"));
        command.arg("-p").arg(dir.path().join("pid"));
        command.arg("start");
        let proc = netns.spawn(command)?;
        proc.wait_line("Jail 'sshd' started")
            .context("starting fail2ban")?;
        Ok(Self { proc, _dir: dir })
    }

    /// Waits for the ban of an address, and for its action to be done.
    pub fn wait_ban(
        &self,
        address: &str,
        is_done: impl FnMut() -> Result<Option<()>>,
    ) -> Result<()> {
        self.proc.wait_line(&format!("[sshd] Ban {address}"))?;
        super::poll::until("the ban's action to be done", is_done)
    }
}
