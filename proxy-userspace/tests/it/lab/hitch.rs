//! Hitch on [`FRONT`], which ends TLS and sends v2 with everything it knows.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::addr::{FRONT, FRONT_PORT};
use super::netns::Netns;
use super::pki::Pki;
use super::proc::Proc;

pub struct Hitch {
    _proc: Proc,
    _dir: TempDir,
}

impl Hitch {
    pub fn start(netns: &Netns, pki: &Pki, to: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("hitch.conf");
        let [v4, v6] = FRONT.both(FRONT_PORT);
        fs::write(
            &config,
            format!(
                "frontend = \"[{}]:{FRONT_PORT}\"
frontend = \"[{}]:{FRONT_PORT}\"
backend = \"[{}]:{}\"
pem-file = \"{}\"
client-verify = required
client-verify-ca = \"{}\"
alpn-protos = \"http/1.1\"
write-proxy-v2 = on
proxy-tlv = on
proxy-client-cert = on
ocsp-dir = \"\"
workers = 1
user = \"nobody\"
daemon = off
",
                v4.ip(),
                v6.ip(),
                to.ip(),
                to.port(),
                pki.path("front.pem").display(),
                pki.path("ca.crt").display(),
            ),
        )?;
        let mut command = Command::new("hitch");
        command.arg("--config").arg(&config);
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, FRONT_PORT)?;
        Ok(Self {
            _proc: proc,
            _dir: dir,
        })
    }
}
