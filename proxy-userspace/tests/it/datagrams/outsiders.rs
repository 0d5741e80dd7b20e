//! Who isn't a balancer's client: whether the app answers it, and what gets to one that is forgotten.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, BALANCER, HOST, LATER, LOOPBACK, Pair, WILDCARD};
use crate::lab::datagram::{self, Echo, Kind};
use crate::lab::netns::Netns;
use crate::lab::poll;

rows! {
    a_forgotten_client;
    a_forgotten_client_by_another_address;
    a_forgotten_client_of_a_connected_socket;
    others_are_refused;
    others_are_the_app_s;
    others_are_the_app_s_unless_told;
    others_of_an_app_by_loopback;
    others_of_an_app_of_a_container_s;
}

const REFUSE: &[&str] = &["--outsiders", "refuse", "--close-after", "1s"];
const APP: &[&str] = &["--outsiders", "app"];

/// An app that all of the host's addresses lead to.
fn open<'a>(plan: Plan<'a>, target: Pair, args: &'a [&'a str]) -> Plan<'a> {
    let bind = WILDCARD;
    Plan {
        target,
        bind,
        args,
        ..plan
    }
}

/// Nor does one hear anything that has never been there, be it in one piece or in several.
fn a_forgotten_client(plan: Plan<'_>) -> Result<()> {
    hears_nothing(open(plan, HOST, REFUSE).start()?)
}

/// From which the app would answer it by itself.
fn a_forgotten_client_by_another_address(plan: Plan<'_>) -> Result<()> {
    let [v4, v6] = LATER.both(0).map(|at| at.ip());
    let set_up = |lab: &Lab| {
        lab.host.ip(&format!(
            "address add {v4}/32 dev edge
             route replace default via 198.51.100.1 dev edge src {v4}
             address add {v6}/128 dev edge nodad
             route replace default via 2001:db8:e::1 dev edge src {v6}"
        ))
    };
    let plan = Plan {
        set_up: &set_up,
        ..open(plan, HOST, REFUSE)
    };
    hears_nothing(plan.start()?)
}

fn hears_nothing(site: Site) -> Result<()> {
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.wait_forgotten()?;
    for (port, words) in [(1000, &b"late"[..]), (1001, b"unasked"), (1002, &[7; 4000])] {
        let before = orphans(&site)?;
        // What the daemon takes for now is half a second behind.
        poll::until("a late answer to be dropped", || {
            site.app.say(site.client(port), words)?;
            Ok((orphans(&site)? > before).then_some(()))
        })?;
    }
    // The host itself is nobody's client.
    for addr in [LOOPBACK, HOST] {
        let neighbour = datagram::socket(&site.lab.host, site.of(addr, 0))?;
        ensure!(is_answered(&neighbour, site.of(addr, APP_PORT))?);
    }
    site.leaks.saw_none()
}

fn a_forgotten_client_of_a_connected_socket(plan: Plan<'_>) -> Result<()> {
    let site = open(plan, HOST, REFUSE).start()?;
    let socket = datagram::shared(&site.lab.host, site.of(HOST, APP_PORT))?;
    socket.connect(site.client(1000))?;
    socket.send(b"unasked")?;
    ensure!(orphans(&site)? == 1, "it got away");
    // Another client: this one is the socket's.
    site.exchange(&site.balancer()?, 1001, b"hello")?;
    site.end()
}

fn others_are_refused(plan: Plan<'_>) -> Result<()> {
    let site = open(plan, HOST, REFUSE).start()?;
    let other = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    ensure!(!is_answered(&other, site.of(HOST, APP_PORT))?);
    ensure!(orphans(&site)? == 1, "another reason");
    site.app.next()?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

fn others_are_the_app_s(plan: Plan<'_>) -> Result<()> {
    both_are_answered(open(plan, HOST, APP))
}

fn others_are_the_app_s_unless_told(plan: Plan<'_>) -> Result<()> {
    both_are_answered(open(plan, HOST, &[]))
}

/// Unless it is told to have them, it has none.
fn others_of_an_app_by_loopback(plan: Plan<'_>) -> Result<()> {
    both_are_answered(open(plan, LOOPBACK, APP))?;
    let site = open(plan, LOOPBACK, &[]).start()?;
    let other = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    ensure!(!is_answered(&other, site.of(HOST, APP_PORT))?);
    ensure!(orphans(&site)? == 1, "another reason");
    Ok(())
}

/// At the same port, but the host's programs are asked about its socket, too.
fn others_of_an_app_of_a_container_s(plan: Plan<'_>) -> Result<()> {
    let site = open(plan, LOOPBACK, &[]).start()?;
    let [container, other] = [Netns::new("container")?, Netns::new("other")?];
    container.ip(&format!(
        "link add other type veth peer name container netns {}
         link set other up
         address add 10.80.0.2/24 dev other
         address add fd80::2/64 dev other nodad",
        other.path().display()
    ))?;
    other.ip("link set container up
         address add 10.80.0.3/24 dev container
         address add fd80::3/64 dev container nodad")?;
    let _app = Echo::listen(&container, site.of(WILDCARD, APP_PORT), Kind::Unconnected)?;
    let [there, here] = match site.service() {
        SocketAddr::V4(_) => ["10.80.0.2:8080", "10.80.0.3:0"],
        SocketAddr::V6(_) => ["[fd80::2]:8080", "[fd80::3]:0"],
    };
    let asking = datagram::socket(&other, here.parse()?)?;
    ensure!(is_answered(&asking, there.parse()?)?, "no answer");
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

/// One after the other, and at the same port of theirs.
fn both_are_answered(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    let other = datagram::socket(&site.lab.edge, site.of(BALANCER, 1000))?;
    for _ in 0..2 {
        ensure!(is_answered(&other, site.of(HOST, APP_PORT))?, "no answer");
        ensure!(site.app.next()?.0 == other.local_addr()?);
        site.exchange(&balancer, 1000, b"hello")?;
    }
    ensure!(orphans(&site)? == 0, "an orphan");
    site.end()
}

fn is_answered(from: &UdpSocket, app: SocketAddr) -> Result<bool> {
    from.send_to(b"directly", app)?;
    from.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = [0; 100];
    match from.recv_from(&mut buffer) {
        Ok((len, by)) => {
            ensure!(by == app && buffer[..len] == *b"directly", "from {by}");
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => is_answered(from, app),
        Err(error) if datagram::is_timeout(&error) => Ok(false),
        Err(error) => Err(error).context("an answer"),
    }
}

fn orphans(site: &Site) -> Result<u64> {
    let count = site.lab.shown("status")?["kernel"]["datagram_orphan"].as_u64();
    Ok(count.unwrap_or_default())
}
