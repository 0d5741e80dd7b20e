//! Balancers: real ones, and the test itself in the place of one.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Lab;
use super::addr::{BALANCER, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT};
use super::netns::Netns;
use super::proc::Proc;

impl Lab {
    /// A connection from the balancer to truepeer that starts with `bytes`, in one segment.
    pub fn balancer(&self, bytes: &[u8]) -> Result<TcpStream> {
        self.balancer_to(HOST.v4(TRUEPEER_PORT), bytes)
    }

    pub fn balancer_to(&self, target: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
        let mut stream = self
            .edge
            .connect_from(BALANCER.like(target, 0), target)
            .with_context(|| format!("the balancer connects to {target}"))?;
        stream.write_all(bytes)?;
        Ok(stream)
    }

    /// A client of a balancer that listens on [`FRONT`].
    pub fn visitor(&self, client: SocketAddr, port: u16) -> Result<TcpStream> {
        self.client
            .connect_from(client, FRONT.like(client, port))
            .with_context(|| format!("{client} connects to the balancer"))
    }
}

/// nginx's stream proxy on [`FRONT`], which speaks v1.
pub struct NginxStream {
    proc: Proc,
    _dir: TempDir,
}

impl NginxStream {
    pub fn start(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
stream {{
    server {{
        listen 0.0.0.0:{FRONT_PORT};
        listen [::]:{FRONT_PORT} ipv6only=on;
        proxy_pass {to};
        proxy_protocol on;
    }}
}}
"
        );
        let (proc, dir) = start_nginx(netns, &config, FRONT_PORT)?;
        Ok(Self { proc, _dir: dir })
    }

    /// Whether its log has a line with `needle` by now.
    pub fn has_said(&self, needle: &str) -> bool {
        self.proc.log().iter().any(|line| line.contains(needle))
    }
}

/// One nginx process in the foreground with `config` behind the settings that keep it in its
/// directory.
pub(super) fn start_nginx(netns: &Netns, config: &str, port: u16) -> Result<(Proc, TempDir)> {
    let dir = TempDir::new()?;
    let file = dir.path().join("nginx.conf");
    let base = "daemon off;
master_process off;
user root;
pid nginx.pid;
error_log stderr;
events {}
";
    // load_module has to come first
    let (modules, blocks): (Vec<_>, Vec<_>) = config
        .lines()
        .partition(|line| line.starts_with("load_module"));
    let whole = [&modules.join("\n"), base, &blocks.join("\n")].join("\n");
    fs::write(&file, whole)?;
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(dir.path());
    command.arg("-c").arg(&file);
    let mut proc = netns.spawn(command)?;
    netns.wait_listening(&mut proc, port)?;
    Ok((proc, dir))
}
