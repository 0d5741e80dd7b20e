//! Hosts with rules that see only a part of the packets, or count on seeing them all.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::counted::{Counting, Times};
use super::{CLIENT_PORT, MIB, Plan, Site, only, paths};
use crate::lab::Lab;
use crate::lab::addr::APP_PORT;
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::payload::Payload;
use crate::lab::poll;
use crate::lab::stall::is_acknowledged;
use crate::lab::talk::{Side, Talk};
use crate::steering::firewalls::STATELESS;
use crate::steering::reuse::{
    the_app_closes_first, the_app_resets, the_client_closes_first, the_client_resets,
};
use crate::steering::site::{nft, sysctl};

paths! {
    only_lo_and_the_service;
    strict_rp_filter;
    nat_for_containers;
    conntrack_in_bulk;
    conntrack_forgets_what_has_ended;
    a_ban_of_the_client_keeps_it_out;
    a_ban_of_the_client_cuts_it_off;
    a_masquerade_that_comes_meanwhile;
}

only! {
    daemon:
    conntrack_forgets_what_a_kill_has_ended;
}

/// In both directions, so that it is not enough to come in.
const STATEFUL: &str = "add table inet guard
    add chain inet guard input { type filter hook input priority 0 ; policy drop ; }
    add rule inet guard input ct state invalid drop
    add rule inet guard input ct state established,related accept
    add rule inet guard input iif lo accept
    add rule inet guard input meta l4proto ipv6-icmp accept
    add rule inet guard input tcp dport 7000 ct state new accept
    add chain inet guard output { type filter hook output priority 0 ; }
    add rule inet guard output ct state invalid drop";

fn only_lo_and_the_service(plan: Plan<'_>) -> Result<()> {
    carries(plan, &|lab| nft(&lab.host, STATELESS))
}

/// Which is IPv4's, and takes nothing from lo that clients have sent.
fn strict_rp_filter(plan: Plan<'_>) -> Result<()> {
    let path = if plan.is_v4() {
        Path::Daemon
    } else {
        plan.path
    };
    carries(Plan { path, ..plan }, &|lab| {
        ["all", "default", "edge", "lo"]
            .iter()
            .try_for_each(|device| sysctl(&lab.host, &format!("ipv4/conf/{device}/rp_filter"), "1"))
    })
}

/// As Docker has it. Since Linux 5.17, nat at the input takes a packet's socket off it if that doesn't
/// know the client's port, and one that is made of a segment doesn't yet.
fn nat_for_containers(plan: Plan<'_>) -> Result<()> {
    const NAT: &str = "add table inet nat
        add chain inet nat pre { type nat hook prerouting priority -100 ; }
        add rule inet nat pre fib daddr type local tcp dport 80 redirect to :8080
        add chain inet nat out { type nat hook output priority -100 ; }
        add rule inet nat out fib daddr type local tcp dport 80 redirect to :8080
        add chain inet nat post { type nat hook postrouting priority 100 ; }
        add rule inet nat post ip saddr 172.17.0.0/16 masquerade
        add rule inet nat post ip6 saddr fd00::/80 masquerade";
    let path = Path::Daemon;
    carries(Plan { path, ..plan }, &|lab| {
        nft(&lab.host, STATEFUL)?;
        nft(&lab.host, NAT)
    })
}

/// Conntrack hasn't seen the connection begin: it takes the application's words for the beginning, and
/// gives them the uplink's address. Nothing of them leaves for the client.
fn a_masquerade_that_comes_meanwhile(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let capture = Leaks::watch(&site.lab.edge)?;
    let renamed = Counting::start(&site.lab, "reply_renamed")?;
    // Conntrack would begin with a late acknowledgment from there, and the application's words be an answer.
    poll::until("the balancer's last acknowledgment", || {
        Ok(is_acknowledged(&talk.app)?.then_some(()))
    })?;
    masquerade(&site.lab)?;
    talk.app.write_all(b"whom do they come from?")?;
    renamed.wait(Times::AtLeast(2))?;
    // Something that the capture is to see.
    let _other = site.connect(0)?;
    capture.saw_none()
}

/// Hides the host's own and all others' packets behind the uplink's address.
pub fn masquerade(lab: &Lab) -> Result<()> {
    nft(
        &lab.host,
        "add table inet hide
         add chain inet hide post { type nat hook postrouting priority 100 ; }
         add rule inet hide post oifname edge masquerade",
    )
}

fn conntrack_in_bulk(plan: Plan<'_>) -> Result<()> {
    carries(plan, &|lab| nft(&lab.host, STATEFUL))
}

fn carries(plan: Plan<'_>, set_up: &dyn Fn(&Lab) -> Result<()>) -> Result<()> {
    let site = Plan { set_up, ..plan }.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(16, 1000)?;
    in_turns(&talk)?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}

/// One side sends and the other has nothing to say but acknowledgments, for a while.
fn in_turns(talk: &Talk) -> Result<()> {
    const LONG: Duration = Duration::from_secs(2);
    let payload = &Payload::new(8);
    let start = Instant::now();
    for (turn, side) in Side::BOTH.into_iter().cycle().enumerate() {
        talk.part(side, payload, turn * MIB, (turn + 1) * MIB)
            .with_context(|| format!("{side:?} sends in turn {turn}"))?;
        if start.elapsed() > LONG {
            break;
        }
    }
    Ok(())
}

fn stateful(plan: Plan<'_>) -> Result<Site> {
    Plan {
        set_up: &|lab| nft(&lab.host, STATEFUL),
        ..plan
    }
    .start()
}

/// It would keep them for five days.
fn conntrack_forgets_what_has_ended(plan: Plan<'_>) -> Result<()> {
    let site = stateful(plan)?;
    for (port, end) in (CLIENT_PORT..).zip([
        the_client_closes_first,
        the_client_resets,
        the_app_resets,
        the_app_closes_first,
    ]) {
        let mut talk = site.warm(port)?;
        talk.ping_pong(4, 100_000)?;
        ensure!(
            !established(&site.lab)?.is_empty(),
            "conntrack sees nothing"
        );
        end(&site.lab, talk)?;
    }
    site.lab.wait_ended(&json!({ "closed": 2, "reset": 2 }))?;
    wait_forgotten(&site.lab)
}

/// By its own address, at the app's own port, as if there were no balancer.
fn ban(site: &Site) -> Result<()> {
    let client = site.client(0).ip();
    let family = if client.is_ipv4() { "ip" } else { "ip6" };
    let rules = format!(
        "add table inet ban
         add chain inet ban input {{ type filter hook input priority -10 ; }}
         add rule inet ban input {family} saddr {client} tcp dport {APP_PORT} counter drop"
    );
    nft(&site.lab.host, &rules)
}

fn wait_banned(site: &Site) -> Result<()> {
    poll::until("the ban to meet a packet", || {
        let table = site.lab.host.run("nft list table inet ban")?;
        Ok((!table.contains("packets 0 ")).then_some(()))
    })
}

fn a_ban_of_the_client_keeps_it_out(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    ban(&site)?;
    let mut balancer = site.connect(0)?;
    balancer.write_all(&site.header(Version::V2, CLIENT_PORT))?;
    // A kernel that makes the connection of the first data needs some.
    balancer.write_all(b"let me in")?;
    wait_banned(&site)?;
    site.app.saw_nobody()
}

fn a_ban_of_the_client_cuts_it_off(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    ban(&site)?;
    talk.balancer.write_all(b"still there?")?;
    wait_banned(&site)?;
    talk.app
        .set_read_timeout(Some(Duration::from_millis(300)))?;
    let heard = talk.app.read(&mut [0; 16]).map_err(|error| error.kind());
    ensure!(heard == Err(ErrorKind::WouldBlock), "it heard {heard:?}");
    Ok(())
}

fn conntrack_forgets_what_a_kill_has_ended(plan: Plan<'_>) -> Result<()> {
    let mut site = stateful(plan)?;
    let talk = site.warm(CLIENT_PORT)?;
    site.kill()?;
    drop(talk);
    wait_forgotten(&site.lab)
}

fn wait_forgotten(lab: &Lab) -> Result<()> {
    let mut left = Vec::new();
    poll::until("conntrack to forget", || {
        left = established(lab)?;
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| format!("left are {left:#?}"))
}

/// The connections that conntrack believes to be open.
fn established(lab: &Lab) -> Result<Vec<String>> {
    let table = lab
        .host
        .enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    let table = match table {
        Ok(table) => table,
        // Not every kernel has that file.
        Err(_) => ["ipv4", "ipv6"]
            .map(|family| lab.host.run(&format!("conntrack -L -f {family}")))
            .into_iter()
            .collect::<Result<String>>()?,
    };
    let open = table.lines().filter(|line| line.contains("ESTABLISHED"));
    Ok(open.map(str::to_owned).collect())
}
