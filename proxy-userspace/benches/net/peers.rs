//! The contenders, each set up as its documentation says, with as many workers as truepeer.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::files;
use crate::lab::addr::{APP_PORT, BALANCER, LOOPBACK, TRUEPEER_PORT};
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    Direct,
    Truepeer,
    GoMmproxy,
    Haproxy,
    Nginx,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Direct,
        Self::Truepeer,
        Self::GoMmproxy,
        Self::Haproxy,
        Self::Nginx,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Truepeer => "truepeer",
            Self::GoMmproxy => "go-mmproxy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    pub fn is_peer(self) -> bool {
        matches!(self, Self::GoMmproxy | Self::Haproxy | Self::Nginx)
    }
}

/// Ends with the value.
pub struct Running {
    proc: Option<Proc>,
    /// What truepeer leaves on purpose when it is killed.
    pins: Option<PathBuf>,
    _dir: TempDir,
}

impl Running {
    pub fn pid(&self) -> Option<Pid> {
        self.proc.as_ref().map(Proc::pid)
    }

    pub fn proc(&self) -> Option<&Proc> {
        self.proc.as_ref()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(proc) = self.proc.take() {
            end(proc);
        }
        if let Some(Err(error)) = self.pins.as_ref().map(fs::remove_dir_all) {
            eprintln!("an allowlist stays pinned: {error}");
        }
    }
}

/// Kills it and waits. Not by dropping it, which prints all it ever said: for go-mmproxy that is a
/// line for each prefix of its allowlist.
fn end(mut proc: Proc) {
    if proc.signal(Signal::KILL).is_ok() {
        while proc.is_running().unwrap_or(false) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    mem::forget(proc);
}

pub fn start(kind: Kind, host: &Netns, prefixes: usize) -> Result<Running> {
    let dir = TempDir::new()?;
    let mut pins = None;
    if kind.is_peer() {
        // For the replies to the clients, which would leave for the balancer otherwise.
        host.ip("rule add from 127.0.0.1/8 iif lo table 123
                 route add local 0.0.0.0/0 dev lo table 123")?;
    }
    let command = match kind {
        Kind::Direct => None,
        Kind::Truepeer => {
            let instance = instance();
            pins = Some(Path::new("/sys/fs/bpf/truepeer").join(&instance));
            Some(truepeer(dir.path(), &instance, prefixes)?)
        }
        Kind::GoMmproxy => Some(go_mmproxy(dir.path(), prefixes)?),
        Kind::Haproxy => Some(haproxy(dir.path(), prefixes)?),
        Kind::Nginx => Some(nginx(dir.path(), prefixes)?),
    };
    let mut proc = command.map(|command| host.spawn(command)).transpose()?;
    if let Some(proc) = &mut proc {
        host.wait_listening(proc, TRUEPEER_PORT)?;
    }
    if let (Kind::Truepeer, Some(proc)) = (kind, &proc) {
        proc.wait_line("ready")?;
    }
    Ok(Running {
        proc,
        pins,
        _dir: dir,
    })
}

/// The balancer's network, behind as many others as it takes. Files are read to their end, and a
/// list that is searched in order should not be done at once.
fn allowlist(prefixes: usize) -> impl Iterator<Item = String> {
    let others = (0..prefixes.saturating_sub(1)).map(|n| {
        let [_, a, b, c] = u32::try_from(n).unwrap_or_default().to_be_bytes();
        format!("10.{a}.{b}.{c}/32")
    });
    others.chain([format!("{}/32", BALANCER.v4)])
}

fn allow_file(dir: &Path, prefixes: usize) -> Result<PathBuf> {
    let file = dir.join("allow");
    let lines: String = allowlist(prefixes).map(|prefix| prefix + "\n").collect();
    fs::write(&file, lines)?;
    Ok(file)
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// No other daemon of this machine has it.
fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench{}-{}", process::id(), NEXT.fetch_add(1, Relaxed))
}

fn truepeer(dir: &Path, instance: &str, prefixes: usize) -> Result<Command> {
    let binary = env::var_os("TRUEPEER_BIN")
        .context("set TRUEPEER_BIN to the truepeer binary; `cargo xtask bench` does that")?;
    let mut command = Command::new(binary);
    command.args(["run", "--instance", instance]);
    command.args(["--listen", &format!("0.0.0.0:{TRUEPEER_PORT}")]);
    command.args(["--target4", &LOOPBACK.v4(APP_PORT).to_string()]);
    command.arg("--allow-file").arg(allow_file(dir, prefixes)?);
    Ok(command)
}

fn go_mmproxy(dir: &Path, prefixes: usize) -> Result<Command> {
    let mut command = Command::new("go-mmproxy");
    command.args(["-l", &format!("0.0.0.0:{TRUEPEER_PORT}")]);
    command.args(["-4", &LOOPBACK.v4(APP_PORT).to_string()]);
    command.args(["-listeners", &workers().to_string()]);
    command
        .arg("-allowed-subnets")
        .arg(allow_file(dir, prefixes)?);
    Ok(command)
}

fn haproxy(dir: &Path, prefixes: usize) -> Result<Command> {
    let config = format!(
        "global
    nbthread {workers}
    maxconn {most}
    maxpipes 128
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen truepeer
    bind 0.0.0.0:{TRUEPEER_PORT} accept-proxy
    maxconn {most}
    tcp-request connection reject if !{{ src -f {allow} }}
    source 0.0.0.0 usesrc client
    server app {app}
",
        workers = workers(),
        most = files::connections(),
        allow = allow_file(dir, prefixes)?.display(),
        app = LOOPBACK.v4(APP_PORT),
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// Its `allow` would compare with the header's client, so the list is of balancers to believe.
fn nginx(dir: &Path, prefixes: usize) -> Result<Command> {
    let mut believed = String::new();
    for prefix in allowlist(prefixes) {
        writeln!(believed, "        set_real_ip_from {prefix};")?;
    }
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes {workers};
pid nginx.pid;
error_log stderr;
events {{
    worker_connections {sockets};
}}
stream {{
    server {{
        listen 0.0.0.0:{TRUEPEER_PORT} proxy_protocol reuseport backlog=4096;
{believed}        proxy_timeout 1h;
        proxy_bind $remote_addr:$remote_port transparent;
        proxy_pass {app};
    }}
}}
",
        workers = workers(),
        sockets = 2 * files::connections(),
        app = LOOPBACK.v4(APP_PORT),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(dir);
    command.arg("-c").arg(file);
    Ok(command)
}
