//! HAProxy on [`FRONT`](super::addr::FRONT).

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::addr::FRONT_PORT;
use super::netns::Netns;
use super::pki::Pki;
use super::proc::Proc;
use super::root::Root;

/// The second port, where IPv4 clients arrive on an IPv6 socket.
pub const MAPPED_PORT: u16 = FRONT_PORT + 1;

pub struct HaProxy {
    _proc: Proc,
    dir: TempDir,
}

/// What differs from one HAProxy to the next.
#[derive(Clone)]
pub struct Options<'a> {
    /// Where it is from, if not this system's.
    pub root: Option<Root>,
    /// `tcp` or `http`.
    pub mode: &'a str,
    /// Behind the address of each `bind` line.
    pub bind: String,
    /// Behind the address of the `server` line.
    pub server: &'a str,
    /// Whole lines.
    pub more: &'a str,
}

impl<'a> Options<'a> {
    pub fn tcp(server: &'a str) -> Self {
        Self {
            root: None,
            mode: "tcp",
            bind: String::new(),
            server,
            more: "",
        }
    }

    /// Of a version that this system may not have.
    pub fn newer(server: &'a str) -> Result<Self> {
        let root = Some(Root::of_peers()?);
        Ok(Self {
            root,
            ..Self::tcp(server)
        })
    }

    /// Ends TLS and wants a certificate of the client.
    pub fn tls(pki: &Pki, server: &'a str) -> Self {
        let bind = format!(
            "ssl crt {} ca-file {} verify required alpn http/1.1",
            pki.path("front.pem").display(),
            pki.path("ca.crt").display()
        );
        Self {
            bind,
            ..Self::tcp(server)
        }
    }
}

/// A server's line of `show stat`.
#[derive(Debug, PartialEq, Eq)]
pub struct Health {
    /// `UP` is also what it starts with, `DOWN`, …
    pub status: String,
    /// `L7OK` and the like.
    pub last_check: String,
    pub failed_checks: String,
}

impl HaProxy {
    /// Plain TCP, with `server_options` such as `send-proxy-v2` towards `to`.
    pub fn start(netns: &Netns, server_options: &str, to: SocketAddr) -> Result<Self> {
        Self::with(netns, &Options::tcp(server_options), to)
    }

    pub fn with(netns: &Netns, options: &Options<'_>, to: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("haproxy.cfg");
        let Options {
            root,
            mode,
            bind,
            server,
            more,
        } = options;
        fs::write(
            &config,
            format!(
                "global
    nbthread 1
    stats socket {stats}
defaults
    mode {mode}
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    unique-id-format %ci-%cp
listen front
    bind 0.0.0.0:{FRONT_PORT} {bind}
    bind [::]:{FRONT_PORT} v6only {bind}
    bind [::]:{MAPPED_PORT} v4v6 {bind}
    server app {to} {server}
{more}
",
                stats = stats(&dir).display(),
            ),
        )?;
        let mut command = match root {
            Some(root) => root.command("usr/sbin/haproxy"),
            None => Command::new("haproxy"),
        };
        command.arg("-db").arg("-f").arg(&config);
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, MAPPED_PORT)?;
        Ok(Self { _proc: proc, dir })
    }

    /// What it thinks of its server.
    pub fn health(&self) -> Result<Health> {
        let mut socket = UnixStream::connect(stats(&self.dir)).context("HAProxy's stats socket")?;
        // 4: servers only
        socket.write_all(b"show stat -1 4 -1\n")?;
        let mut table = String::new();
        socket.read_to_string(&mut table)?;
        let rows: Vec<Vec<_>> = table.lines().map(|row| row.split(',').collect()).collect();
        let field = |name: &str| {
            let [names, values, ..] = &rows[..] else {
                return None;
            };
            let at = names.iter().position(|other| *other == name)?;
            values.get(at).map(|&value| value.to_owned())
        };
        let field = |name: &str| field(name).with_context(|| format!("no {name} in {table}"));
        Ok(Health {
            status: field("status")?,
            last_check: field("check_status")?,
            failed_checks: field("chkfail")?,
        })
    }
}

fn stats(dir: &TempDir) -> PathBuf {
    dir.path().join("stats")
}
