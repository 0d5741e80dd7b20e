//! stunnel on [`FRONT`], which ends TLS and sends v1.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::addr::{FRONT, FRONT_PORT};
use super::netns::Netns;
use super::pki::Pki;
use super::proc::Proc;

pub struct Stunnel {
    _proc: Proc,
    _dir: TempDir,
}

impl Stunnel {
    pub fn start(netns: &Netns, pki: &Pki, to: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("stunnel.conf");
        let mut text = "foreground = yes\npid =\n".to_owned();
        for listen in FRONT.both(FRONT_PORT) {
            text += &format!(
                "[{name}]
accept = {ip}:{FRONT_PORT}
connect = {target}:{port}
cert = {cert}
protocol = proxy
",
                name = if listen.is_ipv4() { "v4" } else { "v6" },
                ip = listen.ip(),
                target = to.ip(),
                port = to.port(),
                cert = pki.path("front.pem").display(),
            );
        }
        fs::write(&config, text)?;
        let mut command = Command::new("stunnel4");
        command.arg(&config);
        let proc = netns.spawn(command)?;
        // after the last of its ports is open
        proc.wait_line("Configuration successful")?;
        Ok(Self {
            _proc: proc,
            _dir: dir,
        })
    }
}
