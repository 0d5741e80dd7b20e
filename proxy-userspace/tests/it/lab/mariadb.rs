//! A database server that greets first and tells whom it sees, with all that it keeps in a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::netns::Netns;
use super::proc::Proc;

pub struct MariaDb {
    _proc: Proc,
    _dir: TempDir,
}

/// A user from anywhere, without a password.
const USER: &str = "lab";

impl MariaDb {
    pub fn start(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        let of_both = [
            "--no-defaults".to_owned(),
            "--user=root".to_owned(),
            "--skip-name-resolve".to_owned(),
            "--innodb-buffer-pool-size=8M".to_owned(),
            format!("--datadir={}", at("data")),
        ];
        let mut make = Command::new("mariadb-install-db");
        make.args(&of_both).arg("--skip-test-db");
        let made = make.output().context("mariadb-install-db")?;
        let said = String::from_utf8_lossy(&made.stdout);
        ensure!(made.status.success(), "mariadb-install-db: {said}");
        fs::write(at("init"), format!("create user {USER}@'%';\n"))?;
        let mut command = Command::new("mariadbd");
        command.args(&of_both);
        command.arg(format!("--init-file={}", at("init")));
        command.arg(format!("--socket={}", at("socket")));
        command.arg(format!("--pid-file={}", at("pid")));
        command.arg(format!("--bind-address={}", listen.ip()));
        command.arg(format!("--port={}", listen.port()));
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, listen.port())?;
        Ok(Self {
            _proc: proc,
            _dir: dir,
        })
    }

    /// Whom the server at `to` says it sees, as it does of any host's connection: address and port.
    pub fn ask(netns: &Netns, to: SocketAddr) -> Result<String> {
        let mut command = Command::new("mariadb");
        command.args([
            "--no-defaults",
            "--skip-ssl",
            "--batch",
            "--skip-column-names",
        ]);
        command.arg(format!("--user={USER}"));
        command.arg(format!("--host={}", to.ip()));
        command.arg(format!("--port={}", to.port()));
        command.arg("--execute=show processlist");
        let output = netns.output(command)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mariadb: {error}");
        let table = String::from_utf8(output.stdout)?;
        let host = table.split('\t').nth(2).map(str::to_owned);
        host.with_context(|| format!("no host in {table}"))
    }
}
