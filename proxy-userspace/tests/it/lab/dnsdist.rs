//! dnsdist on [`FRONT`], which sends v2.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::addr::{FRONT, FRONT_PORT};
use super::netns::Netns;
use super::proc::Proc;

pub struct Dnsdist {
    proc: Proc,
    _dir: TempDir,
}

impl Dnsdist {
    /// Ready when its first health check, over TCP too, has found the server up.
    pub fn start(netns: &Netns, to: SocketAddr) -> Result<Self> {
        Self::start_with(netns, FRONT_PORT, to, "tcpOnly=true, checkTCP=true")
    }

    /// The same over UDP, where the server has to know of `name`, a TXT record.
    pub fn start_udp(netns: &Netns, to: SocketAddr, name: &str) -> Result<Self> {
        Self::start_udp_at(netns, FRONT_PORT, to, name)
    }

    /// The same at another port, for which it needs that of TCP as well.
    pub fn start_udp_at(netns: &Netns, port: u16, to: SocketAddr, name: &str) -> Result<Self> {
        let how = format!("checkName=\"{name}\", checkType=\"TXT\"");
        Self::start_with(netns, port, to, &how)
    }

    fn start_with(netns: &Netns, port: u16, to: SocketAddr, how: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("dnsdist.conf");
        let [v4, v6] = FRONT.both(port);
        // the empty suffix: it would ask the internet whether it is up to date
        fs::write(
            &config,
            format!(
                "setSecurityPollSuffix(\"\")
setACL({{\"0.0.0.0/0\", \"::/0\"}})
setLocal(\"{v4}\")
addLocal(\"{v6}\")
newServer({{address=\"{to}\", useProxyProtocol=true, {how}}})
addAction(AllRule(), SetProxyProtocolValuesAction({{[\"240\"]=\"lab\"}}))
"
            ),
        )?;
        let mut command = Command::new("dnsdist");
        command.args(["--supervised", "--disable-syslog", "--verbose"]);
        command.arg("-C").arg(&config);
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, port)?;
        proc.wait_line("as 'up'")?;
        Ok(Self { proc, _dir: dir })
    }

    /// The first line of its log that contains `needle`.
    pub fn wait_line(&self, needle: &str) -> Result<String> {
        self.proc.wait_line(needle)
    }
}
