//! What joins the balancer and the host: a veth pair, or two cards where the tests' machine has them.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};

use super::netns::Netns;
use super::poll;

/// Two names, a blank between them. The cards are in the tests' own namespace while no lab has them.
const CARDS: &str = "TRUEPEER_CARDS";

/// `host` in the edge's namespace, and `edge` in the host's. Both are down.
pub fn join(edge: &Netns, host: &Netns) -> Result<()> {
    let Ok(cards) = env::var(CARDS) else {
        return edge.ip(&format!(
            "link add host type veth peer name edge netns {}",
            host.path().display()
        ));
    };
    let (first, second) = cards.split_once(' ').context("TRUEPEER_CARDS: not two")?;
    take(first, edge, "host")?;
    take(second, host, "edge")
}

/// The last lab's namespaces give it back when the kernel takes them apart, in the background.
fn take(card: &str, into: &Netns, name: &str) -> Result<()> {
    let mut said = String::new();
    poll::until("a card", || {
        let mut ip = Command::new("ip");
        ip.args(["link", "set", card, "mtu", "1500", "netns"]);
        let moved = ip.arg(into.path()).args(["name", name]).output()?;
        said = String::from_utf8_lossy(&moved.stderr).into_owned();
        Ok(moved.status.success().then_some(()))
    })
    .with_context(|| format!("{card}: {said}"))
}

/// Waits until both ends have seen each other, which takes cards a while once they are up.
pub fn wait(edge: &Netns, host: &Netns) -> Result<()> {
    if env::var_os(CARDS).is_none() {
        return Ok(());
    }
    for (netns, device) in [(edge, "host"), (host, "edge")] {
        poll::until("the uplink's carrier", || {
            let shown = netns.run(&format!("ip link show {device}"))?;
            Ok(shown.contains("LOWER_UP").then_some(()))
        })?;
    }
    Ok(())
}
