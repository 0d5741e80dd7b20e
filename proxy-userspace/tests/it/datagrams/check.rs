//! What `check -p udp` says of an app, and of what is in its way.

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::rows;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::datagram::{self, Echo};
use crate::lab::path::Path;
use crate::lab::truepeer::Said;
use crate::steering::site::nft;

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
    let lab = Lab::new()?;
    let app = app(&plan, &lab)?;
    let said = checked(&plan, &lab)?;
    said.expect(
        0,
        &[
            "the application has a UDP socket there",
            "reached its socket",
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
    let lab = Lab::new()?;
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
    let lab = Lab::new()?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &["no UDP socket hears anybody there", "start the application"],
    )
}

fn a_firewall_before_the_app(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
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

/// What check says to do about it is enough.
fn a_policy_before_the_app(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let _app = app(&plan, &lab)?;
    // Others would have no neighbours in IPv6.
    nft(
        &lab.host,
        "add table inet f
         add chain inet f input { type filter hook input priority 0 ; policy drop ; }
         add rule inet f input meta l4proto ipv6-icmp accept
         add rule inet f input iif lo meta l4proto tcp accept",
    )?;
    let said = checked(&plan, &lab)?;
    said.expect(
        1,
        &["inet f input drops by default", "didn't reach its socket"],
    )?;
    let warned = said
        .text
        .lines()
        .find(|line| line.starts_with("warn firewall"));
    let next = warned.and_then(|line| line.split_once("next: nft "));
    nft(&lab.host, next.context("a rule to insert")?.1)?;
    checked(&plan, &lab)?.expect(0, &["ok firewall", "its answer came back"])
}

/// What the programs take is gone before netfilter.
fn a_rule_that_sees_nothing(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
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
    let lab = Lab::new()?;
    let _app = datagram::socket(&lab.host, (plan.family)(LOOPBACK, APP_PORT))?;
    let said = checked(&plan, &lab)?;
    said.expect(
        0,
        &[
            "reached its socket",
            "none came to a datagram without a byte",
            "can't do so at a loopback address",
        ],
    )
}

/// That a socket was found says nothing of whether it had room.
fn an_app_that_does_not_read(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let at = (plan.family)(LOOPBACK, APP_PORT);
    let app = datagram::socket(&lab.host, at)?;
    SockRef::from(&app).set_recv_buffer_size(1)?;
    let other = datagram::socket(&lab.host, (plan.family)(LOOPBACK, 0))?;
    for _ in 0..100 {
        other.send_to(&[7; 1000], at)?;
    }
    checked(&plan, &lab)?.expect(0, &["warn spoofed", "its socket loses datagrams"])
}

fn a_listen_address_that_is_taken(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let _app = app(&plan, &lab)?;
    let _other = datagram::socket(&lab.host, (plan.family)(HOST, TRUEPEER_PORT))?;
    let said = checked(&plan, &lab)?;
    said.expect(1, &["is taken by "])
}
