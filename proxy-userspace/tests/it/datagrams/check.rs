//! What `check -p udp` says of an app, and of what is in its way.

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::rows;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, BALANCER, HOST, LOOPBACK, TRUEPEER_PORT, WILDCARD};
use crate::lab::datagram::{self, Echo, Kind};
use crate::lab::leaks::Watched;
use crate::lab::path::Path;
use crate::lab::truepeer::Said;
use crate::steering::site::{nft, sysctl};

rows! {
    an_app_that_answers;
    an_app_at_the_host_s_address;
    an_app_that_a_daemon_serves;
    no_app;
    a_firewall_before_the_app;
    a_policy_before_the_app;
    a_rule_that_sees_nothing;
    an_app_that_is_silent;
    an_app_that_does_not_read;
    an_app_with_a_socket_for_each_client;
    an_app_with_a_socket_for_each_client_elsewhere;
    a_strict_reverse_path_filter;
    a_listen_address_that_is_taken;
}

fn checked(plan: &Plan<'_>, lab: &Lab) -> Result<Said> {
    checked_with(plan, lab, &[])
}

fn checked_with(plan: &Plan<'_>, lab: &Lab, args: &[&str]) -> Result<Said> {
    let target = (plan.family)(plan.target, APP_PORT);
    let flag = if target.is_ipv4() {
        "--target4"
    } else {
        "--target6"
    };
    lab.truepeer()
        .listen([(plan.family)(HOST, TRUEPEER_PORT)])
        .no_targets()
        .args([flag, &target.to_string()])
        .args(plan.path.args())
        .args(plan.framing.args())
        .args(args)
        .check()
}

fn app(plan: &Plan<'_>, lab: &Lab) -> Result<Echo> {
    Echo::listen(&lab.host, (plan.family)(plan.target, APP_PORT), plan.kind)
}

fn an_app_that_answers(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let app = app(&plan, &lab)?;
    let said = checked(&plan, &lab)?;
    said.expect(
        0,
        &[
            "ok rp_filter",
            "the application has a UDP socket there",
            "ok spoofed",
            "reached its socket",
            "ok socket",
            "took the datagram, and has lost none",
            "ok reply",
            "its answer came back",
            "is free",
        ],
    )?;
    app.next()?;
    Ok(())
}

/// Whoever has not chosen who may use it is asked to.
fn an_app_at_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    let plan = Plan {
        target: HOST,
        ..plan
    };
    let lab = Watched::new()?;
    let app = app(&plan, &lab)?;
    let asks = |args: &[&str]| -> Result<bool> {
        let said = checked_with(&plan, &lab, args)?;
        said.expect(0, &["its answer came back"])?;
        app.next()?;
        Ok(said.text.contains("warn outsiders"))
    };
    ensure!(asks(&[])?);
    for choice in ["refuse", "app"] {
        ensure!(!asks(&["--outsiders", choice])?, "{choice}");
    }
    Ok(())
}

/// And whose answers to others it drops.
fn an_app_that_a_daemon_serves(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let said = checked(&plan, &site.lab)?;
    said.expect(0, &["reached its socket", "its answer came back"])?;
    site.app.next()?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

fn no_app(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &["no UDP socket hears anybody there", "start the application"],
    )
}

fn a_firewall_before_the_app(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let _app = app(&plan, &lab)?;
    nft(
        &lab.host,
        &format!(
            "add table inet f
             add chain inet f input {{ type filter hook input priority 0 ; }}
             add rule inet f input tcp dport {APP_PORT} drop"
        ),
    )?;
    checked(&plan, &lab)?.expect(0, &["ok firewall", "reached its socket"])?;
    let rule = format!("udp dport {APP_PORT} drop");
    nft(&lab.host, &format!("add rule inet f input {rule}"))?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &[
            "warn firewall",
            &rule,
            "didn't reach its socket",
            "let the firewall accept UDP",
        ],
    )
}

/// By a policy that drops all else, but for what neighbours need in IPv6.
fn let_in_alone(lab: &Lab, what: &str) -> Result<()> {
    nft(
        &lab.host,
        &format!(
            "add table inet f
             add chain inet f input {{ type filter hook input priority 0 ; policy drop ; }}
             add rule inet f input meta l4proto ipv6-icmp accept
             add rule inet f input {what} accept"
        ),
    )
}

/// What check says to do about it is enough.
fn a_policy_before_the_app(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let _app = app(&plan, &lab)?;
    let_in_alone(&lab, "iif lo meta l4proto tcp")?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &["inet f input drops by default", "didn't reach its socket"],
    )?;
    nft(&lab.host, next_of(&said, "warn firewall")?)?;
    checked(&plan, &lab)?.expect(0, &["ok firewall", "its answer came back"])
}

/// What the programs take is gone before netfilter.
fn a_rule_that_sees_nothing(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let _app = app(&plan, &lab)?;
    let rule = format!("udp dport {TRUEPEER_PORT} drop");
    nft(
        &lab.host,
        &format!(
            "add table inet f
             add chain inet f input {{ type filter hook input priority 0 ; }}
             add rule inet f input tcp dport {TRUEPEER_PORT} drop
             add rule inet f input {rule}"
        ),
    )?;
    let said = checked(&plan, &lab)?;
    said.expect(0, &["reached its socket"])?;
    let blind = said.text.lines().filter(|line| line.contains("sees no"));
    let blind: Vec<_> = blind.collect();
    match plan.path {
        Path::Direct => ensure!(blind.len() == 1 && blind[0].contains(&rule), "{blind:?}"),
        _ => ensure!(blind.is_empty(), "{blind:?}"),
    }
    Ok(())
}

fn an_app_that_is_silent(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let _app = datagram::socket(&lab.host, (plan.family)(LOOPBACK, APP_PORT))?;
    let said = checked(&plan, &lab)?;
    said.expect(
        0,
        &[
            "reached its socket",
            "none came to a datagram without a byte",
        ],
    )?;
    cannot_connect(&plan, &said)
}

/// An application of 127.0.0.1 to a client, as the kernel has it; one of `::1` can.
fn cannot_connect(plan: &Plan<'_>, said: &Said) -> Result<()> {
    let says = said
        .text
        .contains("connects a socket to each client can't do so at 127.0.0.1");
    ensure!(says == (plan.family)(HOST, 0).is_ipv4(), "{said:?}");
    Ok(())
}

/// That a socket was found says nothing of whether it had room.
fn an_app_that_does_not_read(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let at = (plan.family)(LOOPBACK, APP_PORT);
    let app = datagram::socket(&lab.host, at)?;
    SockRef::from(&app).set_recv_buffer_size(1)?;
    let other = datagram::socket(&lab.host, (plan.family)(LOOPBACK, 0))?;
    for _ in 0..100 {
        other.send_to(&[7; 1000], at)?;
    }
    checked(&plan, &lab)?.expect(
        0,
        &[
            "ok spoofed",
            "reached its socket",
            "warn socket",
            "it loses datagrams",
            "none came to a datagram without a byte",
        ],
    )
}

/// At the host's address it may have one.
fn an_app_with_a_socket_for_each_client(plan: Plan<'_>) -> Result<()> {
    let kind = Kind::Connected;
    let at_loopback = Plan { kind, ..plan };
    let lab = Watched::new()?;
    let _app = app(&at_loopback, &lab)?;
    let said = checked(&at_loopback, &lab)?;
    said.expect(0, &["ok spoofed", "ok socket"])?;
    let refused = said
        .text
        .contains("connects a socket to each client can't do so");
    ensure!(refused == (plan.family)(HOST, 0).is_ipv4(), "{said:?}");
    let next = "give that as the target";
    ensure!(said.text.contains(next) != refused, "{said:?}");
    let at_host = at_loopback.app_at(HOST);
    let _app = app(&at_host, &lab)?;
    checked(&at_host, &lab)?.expect(0, &["ok socket", "its answer came back"])
}

/// Where clients are sent to isn't what the kernel picks for it.
fn an_app_with_a_socket_for_each_client_elsewhere(plan: Plan<'_>) -> Result<()> {
    let kind = Kind::Connected;
    let plan = Plan { kind, ..plan };
    let lab = Watched::new()?;
    let _app = Echo::listen(&lab.host, (plan.family)(WILDCARD, APP_PORT), kind)?;
    let host = (plan.family)(HOST, APP_PORT);
    let next = format!("give {host} as the target");
    checked(&plan, &lab)?.expect(0, &["ok socket", "warn reply", &next])?;
    checked(&plan.app_at(HOST), &lab)?.expect(0, &["ok socket", "its answer came back"])
}

/// Nothing gets in by `lo` then, and by no other device does the firewall let it in. Either step that check says is
/// enough.
fn a_strict_reverse_path_filter(plan: Plan<'_>) -> Result<()> {
    const ALL: &str = "ipv4/conf/all/rp_filter";
    let lab = Watched::new()?;
    let _app = app(&plan, &lab)?;
    let_in_alone(&lab, "iif lo")?;
    sysctl(&lab.host, ALL, "1")?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &[
            "warn rp_filter",
            "strict on lo",
            "net.ipv4.conf.all.rp_filter=2",
            "FAIL spoofed",
            "see the firewall and rp_filter lines",
        ],
    )?;
    let answered = "its answer came back";
    sysctl(&lab.host, ALL, "2")?;
    checked(&plan, &lab)?.expect(0, &["ok rp_filter", "ok firewall", answered])?;
    sysctl(&lab.host, ALL, "1")?;
    nft(&lab.host, next_of(&said, "warn firewall")?)?;
    checked(&plan, &lab)?.expect(0, &["warn rp_filter", "ok firewall", answered])
}

/// What to have nft do, as this line says.
fn next_of<'a>(said: &'a Said, start: &str) -> Result<&'a str> {
    let mut lines = said.text.lines();
    let line = lines.find(|line| line.starts_with(start));
    let next = line.and_then(|line| line.split_once("next: nft "));
    Ok(next.context("a rule to insert")?.1)
}

fn a_listen_address_that_is_taken(plan: Plan<'_>) -> Result<()> {
    let lab = Watched::new()?;
    let _app = app(&plan, &lab)?;
    let _other = datagram::socket(&lab.host, (plan.family)(HOST, TRUEPEER_PORT))?;
    let said = checked(&plan, &lab)?;
    said.expect(1, &["is taken by "])
}

#[test]
fn clients_whose_addresses_are_somebody_s() -> Result<()> {
    let lab = Watched::new()?;
    let _app = Echo::listen(&lab.host, LOOPBACK.v4(APP_PORT), Kind::Unconnected)?;
    let udp = lab.truepeer().no_targets().args(["-p", "udp", "-4"]);
    let here = udp.clone().args(["127.0.0.1:8080", "--client"]);
    let own = HOST.v4.to_string();
    let said = here.clone().args([&*own]).check()?;
    said.expect(
        1,
        &[&*format!(
            "{own} is one of this host's own addresses: it is refused"
        )],
    )?;
    let other = here.args(["2001:db8:c::9"]).check()?;
    other.expect(1, &["has no target for 2001:db8:c::9", "give --target6"])?;
    ensure!(!other.text.contains("unspoofed"), "{other:?}");
    // Beyond this host, where it would hear itself.
    let there = BALANCER.v4(APP_PORT).to_string();
    let client = BALANCER.v4.to_string();
    let said = udp.args([&*there, "--client", &*client]).check()?;
    said.expect(
        1,
        &[&*format!(
            "{client} is the target's own address: it is refused"
        )],
    )
}
