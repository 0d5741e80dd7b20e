//! An application that hears by one device alone: clients come in there, and replies leave by it.

use anyhow::{Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{APP_PORT, HOST, LOOPBACK, Pair, WILDCARD};
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::leaks::Watched;
use crate::lab::poll;
use crate::steering::site::nft;

const UPLINK: &str = "edge";

rows! {
    to_the_uplink;
    to_the_uplink_at_all_addresses;
    as_long_as_it_gets;
    of_late;
}

/// In IPv6 nothing is routed to a client by `lo`.
mod to_lo {
    use super::{LOOPBACK, Pair, Plan, exchanges};
    use crate::lab::path::Path;

    #[test]
    fn direct() -> anyhow::Result<()> {
        let plan = Plan::new(Path::Direct, Pair::v4);
        exchanges(plan, LOOPBACK, LOOPBACK, "lo")
    }

    #[test]
    fn daemon() -> anyhow::Result<()> {
        let plan = Plan::new(Path::Daemon, Pair::v4);
        exchanges(plan, LOOPBACK, LOOPBACK, "lo")
    }
}

fn exchanges(plan: Plan<'_>, target: Pair, bind: Pair, device: &str) -> Result<()> {
    let plan = Plan {
        target,
        bind,
        ..plan
    };
    let site = plan.serve(|host, bind| Echo::by_device(host, bind, device))?;
    let balancer = site.balancer()?;
    for words in [&b"hello"[..], &[7; 1200]] {
        site.exchange(&balancer, 1000, words)?;
    }
    site.end()
}

fn to_the_uplink(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, HOST, HOST, UPLINK)
}

/// It hears a steer address by that device then.
fn to_the_uplink_at_all_addresses(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, LOOPBACK, WILDCARD, UPLINK)
}

/// In IPv6 longer than any device takes in one piece.
fn as_long_as_it_gets(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::V2First;
    let plan = Plan { framing, ..plan }.app_at(HOST);
    let site = plan.serve(|host, bind| Echo::by_device(host, bind, UPLINK))?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let largest = match site.service().is_ipv4() {
        true => 65_507,
        false => 65_527,
    };
    site.exchange_with(&balancer, &[], 1000, &vec![7; largest])?;
    site.end()
}

#[test]
fn check_names_what_keeps_answers_from_the_device() -> Result<()> {
    let lab = Watched::new()?;
    lab.host.ip("link add lonely type veth peer name peer
         link set lonely up
         link set peer up")?;
    for (flag, at) in [("-4", "198.51.100.2:8080"), ("-6", "[2001:db8:e::2]:8080")] {
        let _app = Echo::by_device(&lab.host, at.parse()?, "lonely")?;
        let truepeer = lab.truepeer().no_targets();
        let said = truepeer.args(["-p", "udp", flag, at]).check()?;
        said.expect(1, &["listens by lonely alone: no route leads to client"])?;
    }
    Ok(())
}

/// And is free again later.
fn of_late(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.app_at(HOST).start()?;
    let balancer = site.balancer()?;
    for (port, device) in (1000..).zip([None, Some(UPLINK), None]) {
        // Who is at the same address by all devices would hear what comes by `lo`.
        site.app = Echo::listen(&site.lab.host, site.of(LOOPBACK, 9), Kind::Unconnected)?;
        let at = site.of(HOST, APP_PORT);
        site.app = match device {
            Some(device) => Echo::by_device(&site.lab.host, at, device)?,
            None => Echo::listen(&site.lab.host, at, Kind::Unconnected)?,
        };
        wait_heard(&site, &balancer, port)?;
        site.exchange(&balancer, port, b"heard")?;
    }
    site.end()
}

/// Until the daemon knows by which device the application hears.
fn wait_heard(site: &Site, balancer: &std::net::UdpSocket, port: u16) -> Result<()> {
    poll::until("the app to hear", || {
        balancer.send(&[&site.header(port), &b"is anybody there"[..]].concat())?;
        balancer.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
        let answer = balancer.recv(&mut [0; 100]);
        balancer.set_read_timeout(Some(poll::PATIENCE))?;
        while site.app.saw_nobody().is_err() {}
        Ok(answer.is_ok().then_some(()))
    })
}

#[test]
fn check_names_the_device() -> Result<()> {
    for (device, flag, at, spoofed) in [
        (UPLINK, "-4", "198.51.100.2:8080", "ok spoofed"),
        (UPLINK, "-6", "[2001:db8:e::2]:8080", "ok spoofed"),
        ("lo", "-4", "127.0.0.1:8080", "ok spoofed"),
        ("lo", "-6", "[::1]:8080", "FAIL spoofed"),
    ] {
        let lab = Watched::new()?;
        let _app = Echo::by_device(&lab.host, at.parse()?, device)?;
        let check = || {
            lab.truepeer()
                .no_targets()
                .args(["-p", "udp", flag, at])
                .check()
        };
        let said = check()?;
        let alone = format!("by {device} alone");
        let code = i32::from(spoofed.starts_with("FAIL"));
        said.expect(code, &[spoofed, &alone, &format!("against {device}")])?;
        ensure!(said.text.contains("came back") == (code == 0), "{said:?}");
        if device == "lo" {
            continue;
        }
        nft(
            &lab.host,
            "add table inet f
             add chain inet f input { type filter hook input priority 0 ; }
             add rule inet f input iif edge udp dport 8080 drop",
        )?;
        check()?.expect(
            1,
            &[
                "warn firewall",
                "packets from any client to the application by edge",
            ],
        )?;
    }
    Ok(())
}
