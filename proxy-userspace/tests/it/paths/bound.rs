//! An application that hears by one device alone: clients come in there, and replies leave by it.

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
        let said = lab.truepeer().no_targets().args([flag, at]).check()?;
        said.expect(i32::from(spoofed.starts_with("FAIL")), &[])?;
        let by_device = format!("listens by {device} alone");
        for (start, part) in [(spoofed, ""), ("warn path", &by_device)] {
            let mut lines = said.text.lines().filter(|line| line.starts_with(start));
            ensure!(lines.any(|line| line.contains(part)), "{said:?}");
        }
        let bans = format!("ok bans: no ban stands behind a rule that accepts {device}");
        ensure!(said.text.lines().any(|line| line == bans), "{said:?}");
        // Nobody enters by lo otherwise.
        let of_lo = ["rp_filter: ", "ok firewall"];
        ensure!(
            !of_lo.iter().any(|line| said.text.contains(line)),
            "{said:?}"
        );
    }
    Ok(())
}

const UPLINK: &str = "edge";

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
    let stranger = site.lab.edge.connect_from(site.balancer(), steered);
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
