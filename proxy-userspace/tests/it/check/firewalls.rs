//! What `check` reads from the firewall's rules.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{all_ok, healthy, line};
use crate::lab::Lab;
use crate::lab::scale::scaled;
use crate::steering::site::nft;

/// Each with bans to stand behind it.
const LETS_IN: [(&str, &[&str]); 12] = [
    ("iif lo accept", &BANS),
    ("iifname vmap { lo : accept, edge : continue }", ONE),
    ("iifname != edge accept", ONE),
    ("iifname { lo, edge } accept", ONE),
    ("meta iiftype loopback accept", ONE),
    ("iif lo ct state new accept", ONE),
    ("iif lo tcp dport 8080 accept", ONE),
    ("iif lo meta l4proto { tcp, udp } counter accept", ONE),
    ("tcp dport vmap { 22 : continue, 8080 : accept }", ONE),
    ("iif lo tcp sport 1024-65535 accept", ONE),
    ("iif lo goto elsewhere", ONE),
    ("accept", ONE),
];
const BANS: [&str; 4] = [
    BAN,
    "jump banned",
    "ip saddr @bans drop",
    "ip saddr vmap { 203.0.113.9 : drop }",
];
const ONE: &[&str] = &[BAN];
const BAN: &str = "ip saddr 203.0.113.9 drop";

const LETS_NOT_ALL_IN: [&str; 7] = [
    "iif edge accept",
    "ct state established,related accept",
    "iif lo tcp dport 22 accept",
    "iif lo udp dport 8080 accept",
    "iif lo ip saddr 127.0.0.0/8 accept",
    "iif lo limit rate 5/second accept",
    "iifname != lo accept",
];

const TABLE: &str = "add table inet f
    add chain inet f banned
    add rule inet f banned ip saddr { 203.0.113.9 } reject
    add set inet f bans { type ipv4_addr; }
    add chain inet f own
    add chain inet f elsewhere
    add chain inet f input { type filter hook input priority 0 ; }";

/// What balancers speak; rules are written for TCP.
#[derive(Clone, Copy)]
enum Spoken {
    Tcp,
    Udp,
}

impl Spoken {
    const fn args(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &[],
            Self::Udp => &["-p", "udp"],
        }
    }

    /// With the one protocol in the place of the other.
    fn rule(self, rule: &str) -> String {
        let swapped = |word| match word {
            "tcp" => "udp",
            "tcp," => "udp,",
            "udp" => "tcp",
            other => other,
        };
        match self {
            Self::Tcp => rule.to_owned(),
            Self::Udp => rule.split(' ').map(swapped).collect::<Vec<_>>().join(" "),
        }
    }
}

#[test]
fn bans_behind_what_accepts_lo() -> Result<()> {
    bans_behind(Spoken::Tcp)
}

#[test]
fn bans_behind_what_accepts_lo_of_udp() -> Result<()> {
    bans_behind(Spoken::Udp)
}

/// As ufw and firewalld have it: a client's packets enter by lo. The rule that lets them in is named.
fn bans_behind(spoken: Spoken) -> Result<()> {
    let (lab, _apps) = healthy()?;
    nft(&lab.host, TABLE)?;
    let says = |rules: &[&str], start: &str| says(&lab, spoken, rules, start);
    // Of UDP's, which the same code reads, a few.
    let forms = match spoken {
        Spoken::Tcp => LETS_IN.len(),
        Spoken::Udp => scaled(3, LETS_IN.len()),
    };
    for (lets_in, bans) in &LETS_IN[..forms] {
        let rule = format!("input {lets_in}");
        for ban in *bans {
            says(&[&rule, &format!("input {ban}")], "warn bans")?;
        }
    }
    let [(lets_in, bans), ..] = LETS_IN;
    for ban in bans {
        let [ban, rule] = [ban, lets_in].map(|rule| format!("input {rule}"));
        says(&[&ban, &rule], "ok bans")?;
    }
    // A chain of the operator's own, which packets of lo leave again.
    let jump = "input jump own";
    let ban = format!("own {BAN}");
    says(&[jump, "own iif lo return", &ban], "warn bans")?;
    says(&[jump, "own iif edge return", &ban], "ok bans")?;
    let input = format!("input {BAN}");
    says(&[jump, "own iif lo return", &input], "ok bans")?;
    let others = LETS_NOT_ALL_IN.map(|rule| format!("input {rule}"));
    let others = others.iter().chain([&input]).map(String::as_str);
    says(&others.collect::<Vec<_>>(), "ok bans")
}

/// Fails unless, with these rules in [`TABLE`], a line of the check begins so.
fn says(lab: &Lab, spoken: Spoken, rules: &[&str], start: &str) -> Result<()> {
    let flush = ["flush chain inet f own", "flush chain inet f input"];
    let add = rules.iter().map(|rule| spoken.rule(rule));
    let add = add.map(|rule| format!("add rule inet f {rule}"));
    let commands = flush.map(str::to_owned).into_iter().chain(add);
    nft(&lab.host, &commands.collect::<Vec<_>>().join("\n"))?;
    let parts: &[&str] = match start {
        "ok bans" => &[],
        _ => &["inet f", "lo"],
    };
    let said = lab.truepeer().args(spoken.args()).check()?;
    line(&said, start, parts).with_context(|| format!("{rules:?}"))
}

/// In the words of iptables, which nft has only half of.
#[test]
fn bans_of_iptables_behind_what_accepts_lo() -> Result<()> {
    let (lab, _apps) = healthy()?;
    for rule in [
        "! -i edge -j ACCEPT",
        "-i lo -m comment --comment all -j ACCEPT",
    ] {
        lab.host.run("iptables -F INPUT")?;
        lab.host.run(&format!("iptables -A INPUT {rule}"))?;
        lab.host
            .run("iptables -A INPUT -m iprange --src-range 203.0.113.8-203.0.113.9 -j DROP")?;
        line(&lab.truepeer().check()?, "warn bans", &["ip filter INPUT"])?;
        lab.host.run("iptables -D INPUT 2")?;
        lab.host.run("iptables -A INPUT -s 203.0.113.9 -j REJECT")?;
        let said = lab.truepeer().check()?;
        line(&said, "warn bans", &["ip filter INPUT", "203.0.113.9"])?;
    }
    lab.host.run("iptables -F INPUT")?;
    line(&lab.truepeer().check()?, "ok bans", &[])
}

/// Its rules are beside those of nftables, which doesn't show them.
#[test]
fn bans_of_legacy_iptables_are_not_called_ok() -> Result<()> {
    let (lab, _apps) = healthy()?;
    for tool in ["iptables-legacy", "ip6tables-legacy"] {
        let ban = match tool {
            "iptables-legacy" => "203.0.113.9",
            _ => "2001:db8:c::9",
        };
        lab.host.run(&format!("{tool} -A INPUT -i lo -j ACCEPT"))?;
        line(&lab.truepeer().check()?, "ok bans", &[])?;
        lab.host.run(&format!("{tool} -A INPUT -s {ban} -j DROP"))?;
        let said = lab.truepeer().check()?;
        line(&said, "warn bans", &[&format!("{tool} -S")])?;
        lab.host.run(&format!("{tool} -F INPUT"))?;
    }
    Ok(())
}

#[test]
fn nat_of_applications_packets() -> Result<()> {
    nat_of(Spoken::Tcp, "open")
}

#[test]
fn nat_of_applications_packets_of_udp() -> Result<()> {
    nat_of(Spoken::Udp, "at another port")
}

/// Docker's rules, which are about its own networks, need no word, nor do those for another protocol.
fn nat_of(spoken: Spoken, consequence: &str) -> Result<()> {
    let (lab, _apps) = healthy()?;
    let check = || lab.truepeer().args(spoken.args()).check();
    nft(&lab.host, "add table ip n; add table ip6 n")?;
    for family in ["ip", "ip6"] {
        nft(
            &lab.host,
            &format!("add chain {family} n post {{ type nat hook postrouting priority 100; }}"),
        )?;
    }
    nft(
        &lab.host,
        "add rule ip n post ip saddr 172.17.0.0/16 masquerade",
    )?;
    let other = spoken.rule("ip n post meta l4proto udp masquerade");
    nft(&lab.host, &format!("add rule {other}"))?;
    line(&check()?, "ok nat", &[])?;
    for (family, steer) in [("ip", "169.254.80.80/28"), ("ip6", "fd74:7275:6570::/112")] {
        let rule = spoken.rule("n post oif edge meta l4proto tcp masquerade");
        nft(&lab.host, &format!("add rule {family} {rule}"))?;
        let said = check()?;
        let parts = [&format!("{family} n post"), steer, consequence];
        line(&said, "warn nat", &parts)?;
        let next = said.text.lines().find(|line| line.starts_with("warn nat"));
        let next = next
            .and_then(|line| line.split_once("nft "))
            .context("a next step")?;
        nft(&lab.host, next.1)?;
        line(&check()?, "ok nat", &[])?;
    }
    Ok(())
}

/// The firewall lets `lo` in, as every one does, but a strict `lo` is no way for clients' packets.
#[test]
fn strict_rp_filter_with_input_drop() -> Result<()> {
    let (lab, _apps) = healthy()?;
    lab.host.run("nft add table inet wall")?;
    lab.host.run(
        "nft add chain inet wall input { type filter hook input priority 0 ; policy drop ; }",
    )?;
    lab.host.run("nft add rule inet wall input iif lo accept")?;
    // Or the router couldn't say where it is.
    lab.host
        .run("nft add rule inet wall input meta l4proto ipv6-icmp accept")?;
    all_ok(&lab.truepeer().check()?)?;

    lab.host
        .enter(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1"))?;
    let said = lab.truepeer().check()?;
    said.expect(1, &[])?;
    line(&said, "warn rp_filter", &["strict on lo", "next: "])?;
    line(
        &said,
        "warn firewall",
        &["inet wall input", "next: nft insert rule"],
    )?;
    line(&said, "FAIL spoofed default 127.0.0.1:8080", &["firewall"])?;

    let running = lab.truepeer().start()?;
    ensure!(
        running
            .log()
            .iter()
            .any(|line| line.contains("WARN firewall: ")),
        "{:?}",
        running.log()
    );
    drop(running);

    lab.host
        .run("nft insert rule inet wall input iifname truepeer* accept")?;
    lab.truepeer()
        .check()?
        .expect(0, &["warn rp_filter", "ok firewall"])
}
