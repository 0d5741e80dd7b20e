//! Floods of SYNs from addresses that aren't the flooder's, with honest connects beside them.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{CLIENT_PORT, Plan, paths};
use crate::lab::flood::Flood;
use crate::lab::flows;
use crate::lab::path::Path;
use crate::lab::scale::scaled;
use crate::lab::spray::Spray;
use crate::lab::talk::Side;

paths! {
    from_allowed_addresses;
    from_addresses_that_are_not_allowed;
}

/// Nobody has them. The first are on the host's own link, where nobody answers for them.
const ALLOWED: [&str; 4] = [
    "198.51.100.64/28",
    "192.0.2.64/28",
    "2001:db8:e::64/124",
    "2001:db8:2::64/124",
];

fn from_allowed_addresses(plan: Plan<'_>) -> Result<()> {
    let sources = if plan.is_v4() {
        ["198.51.100.65", "198.51.100.70", "192.0.2.65", "192.0.2.70"]
    } else {
        [
            "2001:db8:e::65",
            "2001:db8:e::6a",
            "2001:db8:2::65",
            "2001:db8:2::6a",
        ]
    };
    beside_a_flood(plan, &sources)
}

fn from_addresses_that_are_not_allowed(plan: Plan<'_>) -> Result<()> {
    let sources = if plan.is_v4() {
        ["198.51.100.200", "192.0.2.200"]
    } else {
        ["2001:db8:e::200", "2001:db8:2::200"]
    };
    beside_a_flood(plan, &sources)
}

fn beside_a_flood(plan: Plan<'_>, sources: &[&str]) -> Result<()> {
    const CONNECTS: u16 = 20;
    let site = Plan {
        allow: &ALLOWED,
        ..plan
    }
    .start()?;
    let sources: Result<Vec<IpAddr>, _> = sources.iter().map(|source| source.parse()).collect();
    let to = site.lab.host.mac("edge")?;
    let spray = Spray::onto(&site.lab.edge, "host", to)?;
    let flood = Flood::start(spray, sources?, site.service(), 3);
    let each = scaled(1000, 100_000);
    for port in (CLIENT_PORT..).take(CONNECTS.into()) {
        flood.wait_more(each)?;
        let talk = site.warm(port).context("a connect beside the flood")?;
        talk.close(Side::Balancer)?;
    }
    let sent = flood.stop()?;
    ensure!(sent >= each * u64::from(CONNECTS), "{sent}");
    site.lab.wait_ended(&json!({ "closed": CONNECTS }))?;
    if site.path == Path::Direct {
        flows::wait_none(&site.truepeer).context("of the flood")?;
    }
    site.app.saw_nobody()
}
