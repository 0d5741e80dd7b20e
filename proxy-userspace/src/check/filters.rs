//! What may drop a client's packet on its way from the spoof namespace to the application. Hints:
//! only the spoofed connection proves.

use std::collections::BTreeSet;

use super::{
    Finding,
    nftables::{Objects, bans_behind, input_chain_against, renaming},
};
use crate::{
    app::setup::is_lo_strict,
    config::{Config, Service},
    facts::Bound,
    netns::SteerNets,
};

/// All there is to say, for a check.
pub fn check(config: &Config, bound: &Bound) -> Vec<Finding> {
    let ruleset = Objects::read();
    let mut findings = Vec::new();
    let mut devices: BTreeSet<_> = bound.values().map(|app| &*app.entrance.name).collect();
    let mut targets = config.services.iter().flat_map(Service::targets);
    if targets.any(|target| !bound.contains_key(&target)) {
        findings.extend([rp_filter(), firewall(&ruleset)]);
        devices.insert(entrance().0);
    }
    findings.extend([bans(&ruleset, &devices), nat(&ruleset, config.steer)]);
    findings
}

/// Looks at the firewall only where it matters: a large one takes its time to read.
pub fn brief() -> Vec<Finding> {
    if is_lo_strict() {
        vec![rp_filter(), firewall(&Objects::read())]
    } else {
        Vec::new()
    }
}

fn rp_filter() -> Finding {
    const SUBJECT: &str = "rp_filter";
    if is_lo_strict() {
        Finding::warn(
            SUBJECT,
            "strict on lo: clients' packets have to enter by truepeer's own device, where a firewall \
             may not expect them",
            "if that is so: sysctl -w net.ipv4.conf.all.rp_filter=2",
        )
    } else {
        Finding::ok(SUBJECT, "not strict on lo, where clients' packets enter")
    }
}

/// The device that clients' packets enter by, and how a rule names it.
fn entrance() -> (&'static str, &'static str) {
    if is_lo_strict() {
        ("truepeer0", r#"iifname "truepeer*""#)
    } else {
        ("lo", "iif lo")
    }
}

/// Whether a ban of a client's address is seen before what lets all of its packets in, by these devices.
fn bans(ruleset: &Result<Objects, String>, devices: &BTreeSet<&str>) -> Finding {
    const SUBJECT: &str = "bans";
    let found = ruleset.as_ref().map(|it| {
        let mut devices = devices.iter().copied();
        devices.find_map(|device| Some((bans_behind(it, device)?, device)))
    });
    match found {
        Ok(None) => {
            let devices: Vec<_> = devices.iter().copied().collect();
            let devices = devices.join(" or ");
            Finding::ok(
                SUBJECT,
                format!("no ban stands behind a rule that accepts {devices}"),
            )
        }
        Ok(Some((chain, device))) => Finding::warn(
            SUBJECT,
            format!(
                "chain {chain} accepts {device}, by which clients' packets enter, before it bans \
                 addresses: the bans keep no client of truepeer's out"
            ),
            "put the bans in front of that rule, or into a chain of their own of a lower priority",
        ),
        Err(why) => Finding::warn(SUBJECT, format!("unknown: {why}"), "see `nft list ruleset`"),
    }
}

/// Whether a rule would give an application's packets another source, once the kernel no longer knows
/// their connection.
fn nat(ruleset: &Result<Objects, String>, steer: SteerNets) -> Finding {
    const SUBJECT: &str = "nat";
    for net in steer.or_first().nets() {
        let net = net.trunc();
        match ruleset.as_ref().map(|it| renaming(it, &net)) {
            Ok(None) => {}
            Ok(Some(chain)) => {
                let family = if net.addr().is_ipv4() { "ip" } else { "ip6" };
                return Finding::warn(
                    SUBJECT,
                    format!(
                        "chain {chain} gives what comes from {net} another source: after `conntrack -F` \
                         truepeer drops the packets of connections that are open, and they end"
                    ),
                    format!("nft insert rule {chain} {family} saddr {net} accept"),
                );
            }
            Err(why) => {
                let next = "see `nft list ruleset`";
                return Finding::warn(SUBJECT, format!("unknown: {why}"), next);
            }
        }
    }
    Finding::ok(
        SUBJECT,
        "no rule gives applications' packets another source",
    )
}

fn firewall(ruleset: &Result<Objects, String>) -> Finding {
    const SUBJECT: &str = "firewall";
    let (device, fitting) = entrance();
    match ruleset.as_ref().map(|it| input_chain_against(it, device)) {
        Ok(None) => Finding::ok(
            SUBJECT,
            format!("no input chain of nftables is against {device}"),
        ),
        Ok(Some(chain)) => Finding::warn(
            SUBJECT,
            format!("chain {chain} drops by default, and no rule of it accepts {device}"),
            format!("nft insert rule {chain} {fitting} accept"),
        ),
        Err(why) => Finding::warn(
            SUBJECT,
            format!("unknown: {why}"),
            "see whether the spoofed connections below work",
        ),
    }
}
