//! How soon truepeer knows of a change on the host that decides a service's path.
//!
//! From before the command that makes the change until `truepeer status` says the other path, there
//! and back: the command's own time and that of `status` are in it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::app::App;
use crate::lab::addr::{APP_PORT, LOOPBACK};
use crate::lineup::binary;
use crate::results::{Figures, less};
use crate::site::Site;

/// Far beyond what is promised.
const PATIENCE: Duration = Duration::from_secs(20);

/// Command lines: what goes before unseen, what changes the path, and what changes it back.
const FACTS: [(&str, &str, &str, &str); 3] = [
    (
        "sysctl",
        "",
        "sysctl -qw net.ipv4.tcp_syncookies=0",
        "sysctl -qw net.ipv4.tcp_syncookies=1",
    ),
    (
        "routing rule",
        "",
        "ip rule add fwmark 7 table 100 priority 500",
        "ip rule del priority 500",
    ),
    (
        "firewall rule",
        "nft add table ip bench
         nft add chain ip bench nat { type nat hook prerouting priority -100 ; }",
        "nft add rule ip bench nat tcp dport 443 redirect to :80",
        "nft delete table ip bench",
    ),
];

pub fn run(site: &Site, app: &App) -> Result<Figures> {
    let mut figures = Figures::new();
    for (name, before, change, back) in FACTS {
        for line in before.lines() {
            site.host.run(line)?;
        }
        for (line, path) in [(change, "daemon"), (back, "direct")] {
            let run = || site.host.run(line).map(drop);
            figures.push((metric(name), seen(site, path, run).context(line)?));
        }
    }
    figures.extend(listener(site, app)?);
    Ok(figures)
}

/// One with Multipath TCP takes the application's place.
fn listener(site: &Site, app: &App) -> Result<Figures> {
    let port = site.ports.first().context("a site without an app")?;
    app.pause(port);
    let mut multipath = None;
    let there = seen(site, "daemon", || {
        multipath = Some(site.host.enter(multipath_listener)?);
        Ok(())
    })?;
    let back = seen(site, "direct", || {
        multipath.take();
        app.resume(port)
    })?;
    Ok([there, back].map(|time| (metric("listener"), time)).into())
}

fn multipath_listener() -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&LOOPBACK.v4(APP_PORT).into())?;
    socket.listen(1)?;
    Ok(socket)
}

fn metric(name: &str) -> crate::results::Metric {
    less(format!("change seen, {name}"), "ms")
}

/// Milliseconds.
fn seen(site: &Site, path: &str, change: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    change()?;
    while self::path(site)? != path {
        ensure!(start.elapsed() < PATIENCE, "status never says {path}");
    }
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Of the service's IPv4 connections.
fn path(site: &Site) -> Result<String> {
    let instance = site.running.instance().context("status needs truepeer")?;
    let mut status = Command::new(binary()?);
    status.args(["status", "--json", "--instance", instance]);
    let said = site.host.output(status)?;
    let status: Value = serde_json::from_slice(&said.stdout).context("truepeer's status")?;
    let path = status["services"][0]["paths"][0]["path"].as_str();
    Ok(path.context("no path of IPv4")?.to_owned())
}
