//! What may drop a client's packet on its way from the spoof namespace to the application. Hints:
//! only the spoofed connection proves.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::Result;

use super::Finding;
use crate::{
    app::setup::is_lo_strict,
    config::{Config, Transport},
    facts::{self, Against, Bound, Family, Firewall, LateBan, Packets, Ruleset, Sources},
    netns::{SteerNets, Way, way_to},
};

/// What clients' packets meet on this host.
pub struct Filters {
    firewall: Firewall,
    arrivals: Vec<Arrivals>,
}

/// Clients' packets for a target of this host.
struct Arrivals {
    target: SocketAddr,
    transport: Transport,
    /// The one that they enter by.
    device: String,
}

impl Filters {
    pub async fn read(config: &Config, bound: &Bound) -> Result<Self> {
        let mut arrivals = Vec::new();
        for service in &config.services {
            for target in service.targets() {
                // What goes on to another host passes no input chain.
                if matches!(way_to(target.ip()).await?, Way::Out(_)) {
                    continue;
                }
                let device = match bound.get(&target) {
                    Some(app) => &app.entrance.name,
                    None => shared_entrance(),
                };
                arrivals.push(Arrivals {
                    target,
                    transport: service.transport(),
                    device: device.to_owned(),
                });
            }
        }
        Ok(Self {
            firewall: facts::firewall().await?,
            arrivals,
        })
    }

    /// All there is to say, for a check.
    pub fn check(&self, steer: SteerNets) -> Vec<Finding> {
        if self.arrivals.is_empty() {
            return Vec::new();
        }
        let mut arrivals = self.arrivals.iter();
        let by_lo = arrivals.any(|arrivals| arrivals.device == shared_entrance());
        let rp_filter = by_lo.then(rp_filter);
        let rest = match &self.firewall {
            Firewall::Unreadable(why) => vec![unreadable(why)],
            Firewall::Known(rules) => vec![
                self.firewall(rules),
                self.bans(rules),
                self.nat(rules, steer),
            ],
        };
        rp_filter.into_iter().chain(rest).collect()
    }

    /// `lo or eth0`
    fn devices(&self) -> String {
        let mut devices: Vec<_> = self.arrivals.iter().map(|it| &*it.device).collect();
        devices.sort_unstable();
        devices.dedup();
        devices.join(" or ")
    }

    fn packets(&self) -> impl Iterator<Item = Packets<'_>> {
        self.arrivals.iter().map(|arrivals| Packets {
            family: Family::of(&arrivals.target.ip()),
            transport: arrivals.transport,
            port: arrivals.target.port(),
            destination: None,
            device: Some(&arrivals.device),
        })
    }

    fn firewall(&self, rules: &Ruleset) -> Finding {
        const SUBJECT: &str = "firewall";
        let mut packets = self.packets();
        let against = packets.find_map(|packets| Some((packets, rules.against(packets)?)));
        let Some((packets, (chain, why))) = against else {
            return Finding::ok(
                SUBJECT,
                format!("no input chain of nftables is against {}", self.devices()),
            );
        };
        let device = packets.device.unwrap_or_default();
        let message = match why {
            Against::Policy => format!(
                "chain {chain} drops by default, and no rule of it accepts clients' packets, which \
                 enter by {device}"
            ),
            Against::Rule(rule) => {
                format!("a rule drops clients' packets, which enter by {device}: {rule}")
            }
        };
        let accept = match device {
            "lo" => "iif lo accept".to_owned(),
            OURS => r#"iifname "truepeer*" accept"#.to_owned(),
            other => {
                let (transport, port) = (packets.transport.name(), packets.port);
                format!("iifname {other} {transport} dport {port} accept")
            }
        };
        Finding::warn(
            SUBJECT,
            message,
            format!("nft insert rule {chain} {accept}"),
        )
    }

    /// Whether a ban of a client's address is seen before what lets all of them in.
    fn bans(&self, rules: &Ruleset) -> Finding {
        const SUBJECT: &str = "bans";
        let mut packets = self.packets();
        let late = packets.find_map(|packets| Some((packets, rules.late_ban(packets)?)));
        let Some((packets, LateBan { lets_in, ban })) = late else {
            if let Some(tool) = legacy_with_bans() {
                return Finding::warn(
                    SUBJECT,
                    format!("unknown: {tool} has bans, and its rules are not read here"),
                    format!(
                        "see by `{tool} -S` that they stand before what lets all in by {}",
                        self.devices()
                    ),
                );
            }
            return Finding::ok(
                SUBJECT,
                format!(
                    "no ban stands behind a rule that lets all in by {}",
                    self.devices()
                ),
            );
        };
        let device = packets.device.unwrap_or_default();
        Finding::warn(
            SUBJECT,
            format!(
                "one rule lets in all that comes by {device}, where clients' packets enter: {lets_in}; \
                 behind it this ban keeps no client of truepeer's out: {ban}"
            ),
            "put the bans in front of that rule, or into a chain of their own of a lower priority",
        )
    }

    /// Whether a rule would give an application's packets another source, once the kernel no longer knows
    /// their connection. Only those from steer addresses are ours to judge.
    fn nat(&self, rules: &Ruleset, steer: SteerNets) -> Finding {
        const SUBJECT: &str = "nat";
        let is_steered = |it: &&Arrivals| match it.transport {
            Transport::Tcp => true,
            Transport::Udp => it.target.ip().is_loopback(),
        };
        for arrivals in self.arrivals.iter().filter(is_steered) {
            let steer = steer.or_first();
            let Some(net) = steer.of(&arrivals.target.ip()).map(|net| net.net().trunc()) else {
                continue;
            };
            let transport = arrivals.transport;
            if let Some(chain) = rules.renaming(Sources { net, transport }) {
                let family = if net.addr().is_ipv4() { "ip" } else { "ip6" };
                return Finding::warn(
                    SUBJECT,
                    format!(
                        "chain {chain} gives what comes from {net} another source: {}",
                        renamed(transport)
                    ),
                    format!("nft insert rule {chain} {family} saddr {net} accept"),
                );
            }
        }
        Finding::ok(
            SUBJECT,
            "no rule gives applications' packets another source",
        )
    }
}

/// The program whose rules of its own, beside nftables', refuse by source address. Not run where it has
/// no table: it would make one.
fn legacy_with_bans() -> Option<&'static str> {
    const TOOLS: [(&str, &str); 2] = [
        ("iptables-legacy", "ip_tables_names"),
        ("ip6tables-legacy", "ip6_tables_names"),
    ];
    let is_ban = |rule: &str| {
        let refuses = [" -j DROP", " -j REJECT"];
        let by_source = [" -s ", " --match-set ", " --src-range "];
        let has = |parts: &[&str]| parts.iter().any(|part| rule.contains(part));
        has(&refuses) && has(&by_source)
    };
    let has_bans = |(tool, tables): &(&str, &str)| {
        let tables = fs::read_to_string(format!("/proc/thread-self/net/{tables}"));
        if !tables.is_ok_and(|tables| tables.lines().any(|table| table == "filter")) {
            return false;
        }
        let rules = Command::new(tool).arg("-S").output();
        rules.is_ok_and(|rules| String::from_utf8_lossy(&rules.stdout).lines().any(is_ban))
    };
    Some(TOOLS.iter().find(|tool| has_bans(tool))?.0)
}

/// Looks at the firewall only where it matters: a large one takes its time to read.
pub async fn brief(config: &Config) -> Result<Vec<Finding>> {
    if !is_lo_strict() {
        return Ok(Vec::new());
    }
    let filters = Filters::read(config, &Bound::new()).await?;
    let firewall = match &filters.firewall {
        Firewall::Unreadable(why) => unreadable(why),
        Firewall::Known(rules) => filters.firewall(rules),
    };
    Ok(vec![rp_filter(), firewall])
}

fn unreadable(why: &str) -> Finding {
    Finding::warn(
        "firewall",
        format!("unknown: {why}"),
        "see `nft list ruleset`",
    )
}

pub fn rp_filter() -> Finding {
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

/// As rules know it: the name of the first instance's.
const OURS: &str = "truepeer0";

/// The device that clients' packets enter by, for applications that hear by all.
fn shared_entrance() -> &'static str {
    if is_lo_strict() { OURS } else { "lo" }
}

/// What comes of it.
const fn renamed(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => {
            "after `conntrack -F` truepeer drops the packets of connections that are open, and they end"
        }
        Transport::Udp => {
            "behind an answer that comes so late that conntrack has forgotten its client \
             (net.netfilter.nf_conntrack_udp_timeout), the application sees him at another port"
        }
    }
}
