//! How each contender is set up: as its documentation says, with a worker per core for all.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::Result;

use crate::kind::Kind;
use crate::lab::addr::{APP_PORT, LOOPBACK, TRUEPEER_PORT};
use crate::peers::Recipe;
use crate::protocol::Protocol;
use crate::{files, flood, lineup, site};

/// What truepeer is told to relay everything itself.
const BY_DAEMON: [&str; 2] = ["--direct", "off"];

/// The balancers' network, behind that of a flood and as many others as it takes. Files are read to
/// their end, and a list that is searched in order should not be done at once.
fn allowlist(prefixes: usize) -> impl Iterator<Item = String> {
    let others = (0..prefixes.saturating_sub(2)).map(|n| {
        let [_, a, b, c] = u32::try_from(n).unwrap_or_default().to_be_bytes();
        format!("10.{a}.{b}.{c}/32")
    });
    others.chain([flood::SOURCES.to_owned(), site::BALANCERS.to_owned()])
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

pub fn truepeer(dir: &Path, instance: &str, kind: Kind, recipe: &Recipe) -> Result<Command> {
    let mut command = Command::new(lineup::binary()?);
    command.args(["run", "--instance", instance]);
    command.args(["--listen", &format!("0.0.0.0:{TRUEPEER_PORT}")]);
    command.args(["--target4", &LOOPBACK.v4(APP_PORT).to_string()]);
    command
        .arg("--allow-file")
        .arg(allow_file(dir, recipe.prefixes)?);
    if kind == Kind::Daemon {
        command.args(BY_DAEMON);
    }
    if let Protocol::Udp(framing) = recipe.protocol {
        command.args(["--protocol", "udp", "--header", framing.name()]);
    }
    Ok(command)
}

pub fn go_mmproxy(dir: &Path, recipe: &Recipe) -> Result<Command> {
    let mut command = recipe.root()?.command("usr/bin/go-mmproxy");
    command.args(["-l", &format!("0.0.0.0:{TRUEPEER_PORT}")]);
    command.args(["-4", &LOOPBACK.v4(APP_PORT).to_string()]);
    command.args(["-listeners", &workers().to_string()]);
    if recipe.protocol != Protocol::Tcp {
        command.args(["-p", "udp"]);
    }
    command
        .arg("-allowed-subnets")
        .arg(allow_file(dir, recipe.prefixes)?);
    Ok(command)
}

pub fn haproxy(dir: &Path, recipe: &Recipe) -> Result<Command> {
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
        most = files::connections(Kind::Haproxy.files_each(Protocol::Tcp)),
        allow = allow_file(dir, recipe.prefixes)?.display(),
        app = LOOPBACK.v4(APP_PORT),
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = recipe.root()?.command("usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// Its `allow` would compare with the header's client, so the list is of balancers to believe.
pub fn nginx(dir: &Path, recipe: &Recipe) -> Result<Command> {
    let root = recipe.root()?;
    let mut believed = String::new();
    for prefix in allowlist(recipe.prefixes) {
        writeln!(believed, "        set_real_ip_from {prefix};")?;
    }
    let config = format!(
        "load_module {module};
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
        module = root
            .path("usr/lib/nginx/modules/ngx_stream_module.so")
            .display(),
        sockets = 2 * files::connections(Kind::Nginx.files_each(Protocol::Tcp)),
        app = LOOPBACK.v4(APP_PORT),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = root.command("usr/sbin/nginx");
    command.args(["-e", "stderr", "-p"]).arg(dir);
    command.arg("-c").arg(file);
    Ok(command)
}
