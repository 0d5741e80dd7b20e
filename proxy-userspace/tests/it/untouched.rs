//! The host's rules, routes, nftables and sysctls stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, WILDCARD};
use crate::lab::app::Echo;
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::stream::{read_greeting, round_trip};

const DEVICE: &str = "truepeer";

/// Everything that other tools for the same job change.
#[derive(Debug, PartialEq)]
struct Settings {
    rules: Vec<String>,
    routes: Vec<String>,
    firewall: String,
    sysctls: BTreeMap<PathBuf, String>,
}

impl Settings {
    fn of(host: &Netns) -> Result<Self> {
        let lines = |command: &str| -> Result<Vec<String>> {
            let mut lines = Vec::new();
            for family in ["-4", "-6"] {
                let text = host.run(&format!("ip {family} {command}"))?;
                lines.extend(text.lines().map(|line| line.trim_end().to_owned()));
            }
            lines.sort();
            Ok(lines)
        };
        Ok(Self {
            rules: lines("rule show")?,
            routes: lines("route show table all")?,
            firewall: host.run("nft list ruleset")?,
            sysctls: host.enter(|| sysctls(Path::new("/proc/sys")))?,
        })
    }

    /// Takes out, and returns, what came with the device.
    fn split_off_device(&mut self) -> (Vec<String>, Vec<PathBuf>) {
        let dev = format!(" dev {DEVICE}");
        let routes = self.routes.extract_if(.., |route| route.contains(&dev));
        let mine = |path: &Path| path.iter().any(|part| is_device(&part.to_string_lossy()));
        let sysctls = self.sysctls.extract_if(.., |path, _| mine(path));
        (routes.collect(), sysctls.map(|(path, _)| path).collect())
    }
}

fn is_device(name: &str) -> bool {
    // Beside the veth there is one for IPv4 steer addresses.
    let number = name.strip_suffix('s').unwrap_or(name).strip_prefix(DEVICE);
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Every sysctl that can be set. The others are counters and change by themselves, as does the pid
/// that was given out last.
fn sysctls(dir: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sysctls(&path)?);
            continue;
        }
        let writable = fs::metadata(&path)?.permissions().mode() & 0o222 != 0;
        if writable && !path.ends_with("kernel/ns_last_pid") {
            // some can only be written
            if let Ok(value) = fs::read(&path) {
                found.insert(path, String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
    Ok(found)
}

#[test]
fn rules_routes_firewall_and_sysctls() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, WILDCARD.v6(APP_PORT))?;
    // A firewall that is there stays as it is; an empty one would compare equal too easily.
    lab.host.run("nft add table inet of_the_host")?;
    let before = Settings::of(&lab.host)?;
    ensure!(!before.rules.is_empty() && !before.routes.is_empty());
    ensure!(before.firewall.contains("of_the_host") && before.sysctls.len() > 100);

    let mut truepeer = lab.truepeer().start()?;
    for client in CLIENT.both(41000) {
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        let mut balancer = lab.balancer(&header)?;
        assert_eq!(read_greeting(&mut balancer)?, client);
        round_trip(&mut balancer, b"hello")?;
    }
    let mut during = Settings::of(&lab.host)?;
    let (routes, sysctls) = during.split_off_device();
    same(&before, &during)?;
    ensure!(!sysctls.is_empty(), "no device to be seen");
    routes.iter().try_for_each(|route| of_an_address(route))?;

    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    lab.no_device_left()?;
    same(&before, &Settings::of(&lab.host)?)
}

/// A route that the kernel itself made for an address of the device.
fn of_an_address(route: &str) -> Result<()> {
    let (kind, rest) = route.split_once(' ').unwrap_or((route, ""));
    let target = match kind {
        "local" | "multicast" | "anycast" => rest.split(' ').next().unwrap_or_default(),
        target => target,
    };
    let known = ["169.254.80.", "fd74:7275:6570:", "fe80::", "ff00::/8"];
    ensure!(
        route.contains("proto kernel") && known.iter().any(|start| target.starts_with(start)),
        "a route of truepeer's making: {route}"
    );
    Ok(())
}

/// Equality that says where it ends.
fn same(before: &Settings, now: &Settings) -> Result<()> {
    assert_eq!(before.rules, now.rules);
    assert_eq!(before.routes, now.routes);
    assert_eq!(before.firewall, now.firewall);
    for (path, value) in &now.sysctls {
        assert_eq!(before.sysctls.get(path), Some(value), "{}", path.display());
    }
    assert_eq!(before.sysctls.len(), now.sysctls.len());
    Ok(())
}

/// The machine's own namespace has nothing to do with any of this.
#[test]
fn the_spoof_namespace_is_no_ones_but_the_daemons() -> Result<()> {
    let lab = Lab::new()?;
    let named = || fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let before = named();
    let _truepeer = lab.truepeer().start()?;
    assert_eq!(
        named(),
        before,
        "a namespace with a name outlives its daemon"
    );
    ensure!(!lab.edge.devices()?.iter().any(|name| is_device(name)));
    ensure!(lab.host.devices()?.iter().any(|name| is_device(name)));
    Ok(())
}
