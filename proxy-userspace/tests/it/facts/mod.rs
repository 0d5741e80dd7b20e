//! Each fact that decides a service's path, flipped on the host: `truepeer check` says it in words,
//! and `truepeer status` of a daemon that was there before it, whose open connections go on.

mod load;
mod multipath;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, LOOPBACK};
use crate::lab::app::Echo;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::truepeer::Said;
use crate::steering::site::{ip, nft, sysctl};

/// What a line says of a family that is direct.
const DIRECT: &str = "is direct";

/// A host with applications and a running daemon.
struct Host {
    _daemon: Proc,
    _apps: Vec<Echo>,
    lab: Lab,
}

impl Host {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let apps = LOOPBACK.both(APP_PORT).into_iter();
        let apps: Result<_> = apps.map(|app| Echo::greeting(&lab.host, app)).collect();
        Self::with(lab, apps?, [DIRECT; 2])
    }

    /// One of which check says `expected` from the beginning.
    fn with(lab: Lab, apps: Vec<Echo>, expected: [&str; 2]) -> Result<Self> {
        let host = Self {
            _apps: apps,
            _daemon: lab.truepeer().start()?,
            lab,
        };
        host.says(expected)?;
        Ok(host)
    }

    /// Changes it, and fails unless check says `expected` in its lines for IPv4 and IPv6, and the
    /// daemon soon after.
    fn flips(&self, change: impl FnOnce(&Lab) -> Result<()>, expected: [&str; 2]) -> Result<()> {
        self.notices(change, expected)?;
        self.says(expected)
    }

    fn notices(&self, change: impl FnOnce(&Lab) -> Result<()>, expected: [&str; 2]) -> Result<()> {
        change(&self.lab)?;
        let changed = Instant::now();
        poll::until("the daemon to notice", || {
            // However long the answer takes: it is of a moment after this one.
            let asked = changed.elapsed();
            let noticed = self.daemon_says(expected)?;
            ensure!(
                noticed || asked < WITHIN,
                "not within {WITHIN:?}: {:#}",
                self.lab.shown("status")?["services"][0]["paths"]
            );
            Ok(noticed.then_some(()))
        })
        .with_context(|| format!("{expected:?}"))
    }

    /// There and back, so that it was this change and no other.
    fn flips_and_back(&self, change: &str, back: &str, expected: [&str; 2]) -> Result<()> {
        self.flips(|lab| ip(&lab.host, change), expected)?;
        self.flips(|lab| ip(&lab.host, back), [DIRECT; 2])
    }

    fn says(&self, expected: [&str; 2]) -> Result<()> {
        says(&self.lab.truepeer().check()?, expected)
    }

    fn daemon_says(&self, expected: [&str; 2]) -> Result<bool> {
        let mut status = self.lab.shown("status")?;
        let paths = status["services"][0]["paths"].take();
        let says = |path: &Value, expected: &str| {
            let mut reasons = path["reasons"].as_array().into_iter().flatten();
            ((path["path"] == "direct") == (expected == DIRECT))
                && (expected == DIRECT
                    || reasons.any(|reason| {
                        reason["text"]
                            .as_str()
                            .is_some_and(|it| it.contains(expected))
                    }))
        };
        Ok(says(&paths[0], expected[0]) && says(&paths[1], expected[1]))
    }
}

/// A second is promised where the machine has time for it; `nft`, which is asked each time, waits for a
/// CPU like the tests beside it. Whoever heard of no change and only looked now and then would take longer.
const WITHIN: Duration = Duration::from_secs(5);

/// One line for each family: direct, or by the daemon for this reason.
fn says(said: &Said, expected: [&str; 2]) -> Result<()> {
    for (family, expected) in ["IPv4", "IPv6"].into_iter().zip(expected) {
        let mut lines = said.text.lines();
        let line = lines.find(|line| line.contains(&format!("path default: {family} ")));
        let line = line.with_context(|| format!("no path of {family}: {}", said.text))?;
        let by_daemon = line.contains("by the daemon");
        ensure!(
            line.contains(expected) && by_daemon == (expected != DIRECT),
            "{family} should say \"{expected}\": {line}"
        );
    }
    Ok(())
}

/// The warnings about firewall rules that see nothing any more.
fn unseen(said: &Said) -> Vec<&str> {
    let lines = said.text.lines();
    lines
        .filter(|line| line.contains("sees no direct connection"))
        .collect()
}

#[test]
fn settings() -> Result<()> {
    const COOKIES: &str = "tcp_syncookies is 0";
    const LOOSE: &str = "nf_conntrack_tcp_loose is 0";
    let host = Host::new()?;
    for (key, change, back, expected) in [
        ("ipv4/tcp_syncookies", "0", "1", [COOKIES; 2]),
        ("netfilter/nf_conntrack_tcp_loose", "0", "1", [LOOSE; 2]),
        ("ipv4/conf/lo/rp_filter", "1", "0", ["strict on lo", DIRECT]),
    ] {
        host.flips(|lab| sysctl(&lab.host, key, change), expected)?;
        host.flips(|lab| sysctl(&lab.host, key, back), [DIRECT; 2])?;
    }
    Ok(())
}

/// Of truepeer's own device: a container can't switch it on.
#[test]
fn forwarding() -> Result<()> {
    const OFF: &str = "forwarding is off on truepeer";
    let host = Host::new()?;
    let said = host.lab.truepeer().in_container().check()?;
    says(&said, [DIRECT, OFF])
}

#[test]
fn routing_rules() -> Result<()> {
    let host = Host::new()?;
    host.flips_and_back(
        "rule add fwmark 7 table 100 priority 500",
        "rule del priority 500",
        ["ip -4 rule: 500", DIRECT],
    )?;
    host.flips_and_back(
        "-6 rule add from 2001:db8::/32 table main priority 501",
        "-6 rule del priority 501",
        [DIRECT, "ip -6 rule: 501"],
    )
}

#[test]
fn ipsec_policies() -> Result<()> {
    let host = Host::new()?;
    let tmpl = "tmpl proto esp mode tunnel";
    for (sides, expected) in [
        (
            "dst 198.51.100.2 src 198.51.100.1 dir in",
            ["IPsec", DIRECT],
        ),
        ("src 2001:db8:e::/64 dst ::/0 dir out", [DIRECT, "IPsec"]),
        // It is none of the service's.
        ("src 10.0.0.0/8 dst 10.1.0.0/16 dir out", [DIRECT; 2]),
        (
            "src 198.51.100.2 dst 198.51.100.1 proto udp dir out",
            [DIRECT; 2],
        ),
    ] {
        host.flips_and_back(
            &format!("xfrm policy add {sides} {tmpl}"),
            "xfrm policy flush",
            expected,
        )?;
    }
    Ok(())
}

#[test]
fn firewall_rules() -> Result<()> {
    let host = Host::new()?;
    for (family, chain, rule, expected) in [
        (
            "ip",
            NAT,
            "tcp dport 7000 redirect to :22",
            ["redirect to :22", DIRECT],
        ),
        // Whatever it is about: conntrack's nat is at work.
        (
            "inet",
            NAT,
            "tcp dport 443 redirect to :80",
            ["changes addresses"; 2],
        ),
        (
            "inet",
            RAW,
            "tcp dport { 7000, 7001 } notrack",
            ["notrack"; 2],
        ),
        (
            "inet",
            RAW,
            "tcp dport 7000 ct mark set 7",
            ["ct mark set"; 2],
        ),
        (
            "inet",
            RAW,
            "ip6 daddr 2001:db8:e::2 tcp dport 7000 notrack",
            [DIRECT, "notrack"],
        ),
        (
            "inet",
            INPUT,
            "tcp dport 7000 synproxy mss 1460",
            ["synproxy"; 2],
        ),
        (
            "netdev",
            INGRESS,
            "ip saddr 192.0.2.0/24 drop",
            ["ingress rule", DIRECT],
        ),
        ("netdev", INGRESS, "udp dport 53 drop", [DIRECT; 2]),
    ] {
        let rules = format!(
            "add table {family} t
             add chain {family} t c {chain}
             add rule {family} t c {rule}"
        );
        let back = format!("delete table {family} t");
        host.flips(|lab| nft(&lab.host, &rules), expected)
            .with_context(|| rule)?;
        host.flips(|lab| nft(&lab.host, &back), [DIRECT; 2])?;
    }
    Ok(())
}

const NAT: &str = "{ type nat hook prerouting priority -100 ; }";
const RAW: &str = "{ type filter hook prerouting priority -300 ; }";
const INPUT: &str = "{ type filter hook input priority 0 ; }";
const INGRESS: &str = "{ type filter hook ingress device edge priority 0 ; }";

/// Bans and leaves for the service's port or for balancers, which direct connections pass by.
#[test]
fn rules_that_see_nothing_any_more() -> Result<()> {
    let host = Host::new()?;
    nft(
        &host.lab.host,
        "add table inet t
         add chain inet t c { type filter hook input priority 0 ; }
         add rule inet t c tcp dport 7000 counter accept
         add rule inet t c ip saddr 198.51.100.0/24 limit rate over 9/second drop
         add rule inet t c tcp dport 8080 accept
         add rule inet t c ip saddr 203.0.113.9 accept",
    )?;
    let said = host.lab.truepeer().check()?;
    says(&said, [DIRECT; 2])?;
    said.expect(
        0,
        &["inet t c: tcp dport 7000 counter accept; next: leave it"],
    )?;
    let drops = "IPv4: inet t c: ip saddr 198.51.100.0/24 limit rate over 9/second drop; next: ";
    said.expect(0, &[drops])?;
    assert_eq!(unseen(&said).len(), 3, "{said:?}");
    // They see what goes by the daemon.
    let said = host.lab.truepeer().args(["--direct", "off"]).check()?;
    says(&said, ["--direct off"; 2])?;
    assert_eq!(unseen(&said).len(), 0, "{said:?}");
    Ok(())
}

#[test]
fn targets() -> Result<()> {
    let lab = Lab::new()?;
    let truepeer = lab.truepeer().no_targets();
    let said = truepeer.clone().args(["-4", "198.51.100.2:8080"]).check()?;
    says(&said, [DIRECT, "no target of this family"])?;
    let said = truepeer.args(["-4", "198.51.100.1:8080"]).check()?;
    says(
        &said,
        ["198.51.100.1:8080 is not on this host", "no target"],
    )
}
