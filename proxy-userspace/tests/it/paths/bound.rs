//! An application that hears by one device alone: clients come in there, and replies leave by it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::site::Site;
use super::{CLIENT_PORT, MIB, Plan, only};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, HOST, Pair};
use crate::lab::app::App;
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::talk::Side;
use crate::lab::truepeer::Said;
use crate::steering::site::nft;

only! {
    falls_back:
    an_app_bound_of_late;
}

mod an_app_bound_to_the_uplink {
    crate::paths::families!(an_app_bound_to_the_uplink falls_back);
    crate::paths::families!(an_app_bound_to_the_uplink daemon);
}

/// In IPv6 nothing is routed to a client by `lo`.
mod an_app_bound_to_lo {
    use super::{Pair, Plan, bound_to_lo};

    #[test]
    fn falls_back() -> anyhow::Result<()> {
        bound_to_lo(Plan::falls_back(Pair::v4))
    }

    #[test]
    fn daemon() -> anyhow::Result<()> {
        bound_to_lo(Plan::daemon(Pair::v4))
    }
}

#[test]
fn check_names_the_device() -> Result<()> {
    for (device, flag, at, spoofed) in [
        ("edge", "-4", "198.51.100.2:8080", "ok spoofed"),
        ("edge", "-6", "[2001:db8:e::2]:8080", "ok spoofed"),
        ("lo", "-4", "127.0.0.1:8080", "ok spoofed"),
        ("lo", "-6", "[::1]:8080", "FAIL spoofed"),
    ] {
        let lab = Lab::new()?;
        let _app = App::by_device(&lab.host, at.parse()?, device)?;
        let check = || lab.truepeer().no_targets().args([flag, at]).check();
        let said = check()?;
        said.expect(i32::from(spoofed.starts_with("FAIL")), &[])?;
        has(&said, spoofed, &[])?;
        has(&said, "warn path", &[&format!("listens by {device} alone")])?;
        has(&said, "ok bans", &[&format!("by {device}")])?;
        has(&said, "ok firewall", &[&format!("against {device}")])?;
        if device == "lo" {
            continue;
        }
        ensure!(!said.text.contains("rp_filter: "), "{said:?}");
        // Bans at that device are about its clients.
        nft(
            &lab.host,
            "add table inet f
             add chain inet f input { type filter hook input priority 0 ; }
             add rule inet f input iifname != lo accept
             add rule inet f input ip saddr 203.0.113.9 drop
             add rule inet f input ip6 saddr 2001:db8:c::9 drop",
        )?;
        has(&check()?, "warn bans", &["iifname !=", "edge"])?;
    }
    Ok(())
}

/// Each in words of its own, as what is to be done about it differs.
#[test]
fn check_names_what_keeps_clients_from_the_device() -> Result<()> {
    let lab = Lab::new()?;
    let at = HOST.v4(APP_PORT);
    let _app = App::by_device(&lab.host, at, UPLINK)?;
    let target = at.to_string();
    let args = ["-4", &target, "--connect-timeout", "1s"];
    let check = || lab.truepeer().no_targets().args(args).check();
    let fails = |parts: &[&str]| {
        let said = check()?;
        said.expect(1, &[])?;
        has(&said, "FAIL spoofed", parts)
    };
    nft(
        &lab.host,
        "add table inet wall
         add chain inet wall input { type filter hook input priority 0 ; policy drop ; }
         add rule inet wall input iif lo accept
         add rule inet wall input tcp dport 7000 accept",
    )?;
    fails(&["listens by edge alone", "firewall"])?;
    let said = check()?;
    let wall = said
        .text
        .lines()
        .find(|line| line.starts_with("warn firewall"));
    let insert = wall.and_then(|line| line.split_once("next: nft "));
    nft(&lab.host, insert.context("a rule to insert")?.1)?;
    check()?.expect(0, &["ok firewall", "ok spoofed"])?;

    lab.host
        .run("ip link add other type veth peer name beyond")?;
    for device in ["other", "beyond"] {
        lab.host.run(&format!("ip link set {device} up"))?;
    }
    lab.host.run("ip route add 192.0.2.0/24 dev other")?;
    lab.host
        .enter(|| std::fs::write("/proc/sys/net/ipv4/conf/edge/rp_filter", "1"))?;
    fails(&["rp_filter is strict", "other", "conf.edge.rp_filter=2"])?;
    lab.host
        .enter(|| std::fs::write("/proc/sys/net/ipv4/conf/edge/rp_filter", "0"))?;
    lab.host.run("ip route del default")?;
    fails(&["no route leads to client 192.0.2.1", "SO_BINDTODEVICE"])
}

/// Fails unless a line begins with `start` and has each of `parts`.
fn has(said: &Said, start: &str, parts: &[&str]) -> Result<()> {
    let mut lines = said.text.lines().filter(|line| line.starts_with(start));
    let fits = lines.any(|line| parts.iter().all(|part| line.contains(part)));
    ensure!(fits, "no line {start:?} with {parts:?}: {said:?}");
    Ok(())
}

const UPLINK: &str = "edge";
/// Until the second of them has had its time as well.
const TWO_SYNS: Duration = Duration::from_secs(3);

fn an_app_bound_to_the_uplink(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        bind: HOST,
        listen: |netns, at| App::by_device(netns, at, UPLINK),
        ..plan
    }
    .start()?;
    let steered = talks(&site)?;
    // Others at that link are no balancers.
    let (to, by) = (steered.ip(), site.service().ip());
    site.lab.edge.ip(&format!("route add {to} via {by}"))?;
    let edge = &site.lab.edge;
    let stranger = edge.connect_within(site.balancer(), steered, TWO_SYNS);
    ensure!(stranger.is_err(), "the application was reached");
    site.app.saw_nobody()?;
    site.app.stop()?;
    poll::until("a refusal", || Ok(site.connect(0).err().map(drop)))
}

fn bound_to_lo(plan: Plan<'_>) -> Result<()> {
    let listen = |netns: &Netns, at| App::by_device(netns, at, "lo");
    let site = Plan { listen, ..plan }.start()?;
    talks(&site).map(drop)
}

/// And is free again later. Open connections go on.
fn an_app_bound_of_late(plan: Plan<'_>) -> Result<()> {
    let bind = HOST;
    let mut site = Plan { bind, ..plan }.start()?;
    let at = site.of(HOST, APP_PORT);
    let mut open = Vec::new();
    for device in [None, Some(UPLINK), None] {
        site.app.stop()?;
        site.app = match device {
            Some(device) => App::by_device(&site.lab.host, at, device)?,
            None => App::listen(&site.lab.host, at)?,
        };
        wait_bound(&site.lab, device)?;
        let port = CLIENT_PORT + u16::try_from(open.len())?;
        let mut talk = site.open(port)?;
        site.path = device.map_or(Path::Direct, |_| Path::Daemon);
        talk.warm_up(&site.lab, site.path)?;
        open.push(talk);
        for talk in &mut open {
            talk.ping_pong(64, 10)?;
        }
    }
    Ok(())
}

/// The application's end of a connection.
fn talks(site: &Site) -> Result<std::net::SocketAddr> {
    wait_bound(&site.lab, Some(""))?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(64, 100)?;
    talk.transfer(&Side::BOTH, 4 * MIB)?;
    Ok(talk.app.local_addr()?)
}

/// Until `status` says by which device the application hears, or that it hears by all.
fn wait_bound(lab: &Lab, device: Option<&str>) -> Result<()> {
    poll::until("the daemon to know who listens", || {
        let paths = lab.shown("status")?["services"][0]["paths"].take();
        let paths = paths.as_array().context("paths")?;
        let reasons = paths.iter().filter_map(|path| path["reasons"].as_array());
        let bound = reasons
            .flatten()
            .find(|reason| reason["name"] == "bound_app");
        let said = bound.map(|reason| reason["text"].to_string());
        let as_wanted = match (&said, device) {
            (None, None) => true,
            (Some(said), Some(device)) => said.contains(device),
            _ => false,
        };
        Ok(as_wanted.then_some(()))
    })
}
