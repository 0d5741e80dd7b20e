//! Varnish on [`FRONT`], which passes everything on.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::addr::{FRONT, FRONT_PORT};
use super::netns::Netns;
use super::proc::Proc;

pub struct Varnish {
    _proc: Proc,
    _dir: TempDir,
}

impl Varnish {
    /// What it answers itself: whether its probes find the app well.
    pub const HEALTH: &str = "/health";

    /// `version` is that of its headers. Its probes have one too.
    pub fn start(netns: &Netns, version: u8, to: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let vcl = dir.path().join("front.vcl");
        fs::write(
            &vcl,
            format!(
                "vcl 4.1;
import std;
backend app {{
    .host = \"{ip}\";
    .port = \"{port}\";
    .proxy_header = {version};
    .probe = {{ .interval = 200ms; .initial = 3; .window = 3; .threshold = 3; }}
}}
sub vcl_recv {{
    if (req.url == \"{health}\") {{
        if (std.healthy(req.backend_hint)) {{ return (synth(200)); }}
        return (synth(503));
    }}
    return (pass);
}}
",
                ip = to.ip(),
                port = to.port(),
                health = Self::HEALTH,
            ),
        )?;
        let mut command = Command::new("varnishd");
        // -j none: its own users couldn't read the directory
        command.args(["-F", "-j", "none", "-s", "malloc,16m"]);
        command.args(["-p", "thread_pools=1", "-p", "thread_pool_min=10"]);
        for listen in FRONT.both(FRONT_PORT) {
            command.args(["-a", &listen.to_string()]);
        }
        command
            .arg("-f")
            .arg(&vcl)
            .arg("-n")
            .arg(dir.path().join("n"));
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, FRONT_PORT)?;
        proc.wait_line("Child launched OK")?;
        Ok(Self {
            _proc: proc,
            _dir: dir,
        })
    }
}
