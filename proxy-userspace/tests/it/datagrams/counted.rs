//! What makes each of UDP's counters count.

use std::net::UdpSocket;

use anyhow::Result;

use super::site::{Plan, Site, other};
use super::{each, errors, firsts, limits, links, refused};
use crate::lab::Lab;
use crate::lab::addr::{
    BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, NEIGHBOUR, OTHER_CLIENT, Pair, STEER,
};
use crate::lab::datagram::{self, Framing};
use crate::lab::flows::age;
use crate::lab::header;
use crate::lab::path::Path;
use crate::paths::counted::Times::{AtLeast, Once};
use crate::paths::counted::{self, Row};
use crate::steering::site::sysctl;

const DIRECT: &[Row<Site>] = &[
    Row("datagram_up", Once, exchange),
    Row("datagram_down", Once, exchange),
    Row("datagram_opened", Once, exchange),
    Row("datagram_refused", Once, from_a_stranger),
    Row("datagram_taken", Once, of_another_s_client),
    Row("datagram_orphan", Once, from_a_steer_address),
    Row("datagram_steer_address", Once, to_a_steer_address),
    Row("datagram_segmented", Once, many_at_once),
    Row("datagram_segment", AtLeast(2), many_at_once),
    Row("datagram_to_daemon_long", Once, of_20_000_bytes),
    Row("datagram_to_daemon_order", AtLeast(1), behind_long_ones),
    Row("datagram_reply_piece", AtLeast(2), answered_in_pieces),
];
/// In each framing.
const REFUSED: &[Row<Site>] = &[
    Row("datagram_denied", Once, of_a_denied_client),
    Row("datagram_to_daemon_header", Once, without_a_header),
    Row("datagram_to_daemon_header", Once, with_one_of_v1),
    Row("datagram_to_daemon_header", Once, with_one_of_tcp),
    Row("datagram_to_daemon_client", Once, of_the_host_itself),
];
const LIMITED: &[Row<Site>] = &[
    Row("datagram_full", Once, one_too_many),
    Row("datagram_evicted", Once, in_an_idle_one_s_place),
];
const CLIENT_LIMITED: &[Row<Site>] = &[Row("datagram_client_full", Once, one_too_many)];
const RATE_LIMITED: &[Row<Site>] = &[Row("datagram_too_fast", AtLeast(1), each::one_too_fast)];
const V2_FIRST: &[Row<Site>] = &[Row("datagram_forgotten", Once, behind_an_eviction)];
const SPP: &[Row<Site>] = &[
    Row("datagram_reply_long", Once, answered_without_room),
    Row(
        "datagram_reply_order",
        AtLeast(1),
        behind_answers_without_room,
    ),
    Row("datagram_segmented", Once, answered_by_many),
];
/// Where `lo` lets nobody in, nothing is taken apart.
const STRICT: &[Row<Site>] = &[Row("datagram_to_daemon_many", Once, many_at_once)];
const STRICT_SPP: &[Row<Site>] = &[Row("datagram_reply_many", Once, answered_by_many)];
const DAEMON: &[Row<Site>] = &[
    Row("datagram_to_daemon_service", Once, exchange),
    Row("datagram_reply_service", Once, exchange),
];
const OTHER_LINK: &[Row<Site>] = &[
    Row("datagram_to_daemon_route", Once, links::forge_and_wait),
    Row("datagram_reverse_path", Once, links::forge),
];
const WITHOUT_APP: &[Row<Site>] = &[
    Row("datagram_icmp", Once, to_nobody),
    Row("datagram_icmp_limited", AtLeast(1), to_nobody_too_often),
];
const AT_HOST: &[Row<Site>] = &[Row("datagram_icmp_lost", Once, errors::runs_out)];
const WITHOUT_TARGET: &[Row<Site>] = &[Row("datagram_to_daemon_family", Once, of_the_other_family)];

/// The counters that have a row here.
pub fn names() -> impl Iterator<Item = &'static str> {
    let all = [
        DIRECT,
        REFUSED,
        LIMITED,
        CLIENT_LIMITED,
        RATE_LIMITED,
        V2_FIRST,
        SPP,
        STRICT,
        STRICT_SPP,
        DAEMON,
        OTHER_LINK,
        WITHOUT_APP,
        AT_HOST,
        WITHOUT_TARGET,
    ];
    all.into_iter().flat_map(counted::names)
}

#[test]
fn v4() -> Result<()> {
    all(Pair::v4)
}

#[test]
fn v6() -> Result<()> {
    all(Pair::v6)
}

fn all(family: fn(Pair, u16) -> std::net::SocketAddr) -> Result<()> {
    let denied = family(DENIED, 0).ip().to_string();
    let plan = Plan {
        args: &["--deny", &denied],
        set_up: &jumbo,
        allow: &[NEIGHBOUR],
        ..Plan::new(Path::Direct, family)
    };
    let run = |plan: Plan<'_>, rows: &[&[Row<Site>]]| {
        let site = plan.start()?;
        counted::run(&site.lab, &site, rows.iter().copied().flatten())?;
        // Not all that is counted is answered, and the capture has to have seen something.
        let own = datagram::socket(&site.lab.host, family(HOST, 0))?;
        own.send_to(b"seen", family(BALANCER, 9))?;
        site.leaks.saw_none()
    };
    run(plan, &[DIRECT, REFUSED])?;
    let args = &["--maxconn", "1"];
    run(Plan { args, ..plan }, &[LIMITED])?;
    let args = &["--maxconn-per-client", "1"];
    run(Plan { args, ..plan }, &[CLIENT_LIMITED])?;
    let args = &["--maxconnrate-per-client", "1"];
    run(Plan { args, ..plan }, &[RATE_LIMITED])?;
    let framing = Framing::V2First;
    run(Plan { framing, ..plan }, &[V2_FIRST, REFUSED])?;
    let framing = Framing::Spp;
    run(Plan { framing, ..plan }, &[REFUSED, SPP])?;
    let strict = Plan {
        set_up: &strict_lo,
        ..plan
    };
    run(strict, &[STRICT])?;
    run(Plan { framing, ..strict }, &[STRICT_SPP])?;
    let path = Path::Daemon;
    run(Plan { path, ..plan }, &[DAEMON])?;
    let set_up = &links::other_link;
    run(Plan { set_up, ..plan }, &[OTHER_LINK])?;
    let without_app = Plan {
        target: HOST,
        set_up: &errors_without_limits,
        ..plan
    };
    run(without_app, &[WITHOUT_APP])?;
    run(plan.app_at(HOST), &[AT_HOST])?;
    let alone = true;
    run(Plan { alone, ..plan }, &[WITHOUT_TARGET])
}

const DENIED: Pair = OTHER_CLIENT;

/// So that what is too long for the programs comes in one piece.
fn jumbo(lab: &Lab) -> Result<()> {
    lab.edge.ip("link set host mtu 30000")?;
    lab.host.ip("link set edge mtu 30000")
}

fn strict_lo(lab: &Lab) -> Result<()> {
    let lo = "/proc/sys/net/ipv4/conf/lo/rp_filter";
    lab.host.enter(|| std::fs::write(lo, "1"))?;
    jumbo(lab)
}

/// Of the kernel's own.
fn errors_without_limits(lab: &Lab) -> Result<()> {
    for (name, value) in [
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv4/icmp_msgs_per_sec", "1000000"),
        ("ipv4/icmp_msgs_burst", "1000000"),
        ("ipv6/icmp/ratelimit", "0"),
    ] {
        sysctl(&lab.host, name, value)?;
    }
    Ok(())
}

fn exchange(site: &Site, port: u16) -> Result<()> {
    site.exchange(&site.balancer()?, port, b"hello")
}

fn send(site: &Site, balancer: &UdpSocket, port: u16, words: &[u8]) -> Result<()> {
    balancer.send(&[&site.header(port)[..], words].concat())?;
    Ok(())
}

fn one_too_many(site: &Site, port: u16) -> Result<()> {
    exchange(site, port)?;
    send(site, &site.balancer()?, port + 1, b"hello")
}

fn in_an_idle_one_s_place(site: &Site, port: u16) -> Result<()> {
    age(&site.truepeer, limits::BUSY)?;
    exchange(site, port)
}

fn behind_an_eviction(site: &Site, port: u16) -> Result<()> {
    let balancer = site.balancer()?;
    site.exchange(&balancer, port, b"hello")?;
    firsts::evict(&site.truepeer)?;
    send(site, &balancer, port + 1, b"hello")
}

fn from_a_stranger(site: &Site, port: u16) -> Result<()> {
    send(site, &site.balancer_at(FRONT)?, port, b"hello")
}

/// From a port of its own: with v2-first, one that was used before may speak for somebody.
fn say(site: &Site, port: u16, words: &[u8]) -> Result<()> {
    let balancer = datagram::socket(&site.lab.edge, site.of(BALANCER, port))?;
    balancer.send_to(words, site.service())?;
    Ok(())
}

fn of_a_denied_client(site: &Site, port: u16) -> Result<()> {
    let header = site.framing.header(site.of(DENIED, port), site.front());
    say(site, port, &[&header[..], b"hello"].concat())
}

fn of_another_s_client(site: &Site, port: u16) -> Result<()> {
    exchange(site, port)?;
    send(site, &site.balancer_at(NEIGHBOUR)?, port, b"hello")
}

/// As of an application whose flow is gone.
fn from_a_steer_address(site: &Site, port: u16) -> Result<()> {
    let steer = site.of(STEER, 0);
    datagram::socket(&site.lab.host, steer)?.send_to(b"hello", site.client(port))?;
    Ok(())
}

fn to_a_steer_address(site: &Site, _: u16) -> Result<()> {
    links::to_a_steer_address(site, b"hello")
}

fn many_at_once(site: &Site, port: u16) -> Result<()> {
    let balancer = site.balancer()?;
    let one = [&site.header(port)[..], b"hello"].concat();
    datagram::segment(&balancer, u16::try_from(one.len())?)?;
    balancer.send(&[&one[..], &one].concat())?;
    for _ in 0..2 {
        site.app_got(port, b"hello")?;
        site.answered(&balancer, port, b"hello")?;
    }
    Ok(())
}

fn without_a_header(site: &Site, port: u16) -> Result<()> {
    say(site, port, b"hello")
}

fn with_one_of_v1(site: &Site, port: u16) -> Result<()> {
    say(site, port, refused::OF_V1)
}

fn with_one_of_tcp(site: &Site, port: u16) -> Result<()> {
    let header = header::v2(0x21, site.client(port), site.front(), &[]);
    say(site, port, &[&header[..], b"hello"].concat())
}

/// It has no target here.
fn of_the_other_family(site: &Site, port: u16) -> Result<()> {
    let other = other(site.service());
    let client = other(CLIENT, port);
    let front = other(FRONT, FRONT_PORT);
    let header = site.framing.header(client, front);
    say(site, port, &[&header[..], b"hello"].concat())
}

fn of_the_host_itself(site: &Site, port: u16) -> Result<()> {
    let header = site.framing.header(site.of(LOOPBACK, port), site.front());
    say(site, port, &[&header[..], b"hello"].concat())
}

fn of_20_000_bytes(site: &Site, port: u16) -> Result<()> {
    site.exchange(&site.balancer()?, port, &[7; 20_000])
}

/// Again, in case that the first one takes longer than is waited for it.
fn behind_long_ones(site: &Site, port: u16) -> Result<()> {
    let balancer = site.balancer()?;
    site.exchange(&balancer, port, b"hello")?;
    for _ in 0..3 {
        site.exchange(&balancer, port, &[7; 20_000])?;
        site.exchange(&balancer, port, b"hello")?;
    }
    Ok(())
}

fn behind_answers_without_room(site: &Site, port: u16) -> Result<()> {
    let balancer = site.balancer()?;
    for _ in 0..3 {
        without_room(site, &balancer, port)?;
        site.exchange(&balancer, port, b"hello")?;
    }
    Ok(())
}

fn answered_in_pieces(site: &Site, port: u16) -> Result<()> {
    site.lab.edge.ip("link set host mtu 1500")?;
    site.lab.host.ip("link set edge mtu 1500")?;
    site.exchange(&site.balancer()?, port, &[7; 4000])
}

fn answered_without_room(site: &Site, port: u16) -> Result<()> {
    without_room(site, &site.balancer()?, port)
}

/// With the header, the answer is one byte longer than the link takes.
fn without_room(site: &Site, balancer: &UdpSocket, port: u16) -> Result<()> {
    site.lab.host.ip("link set edge mtu 1500")?;
    let headers = if site.service().is_ipv4() { 28 } else { 48 };
    site.exchange(balancer, port, &vec![7; 1500 - headers - 37])
}

fn answered_by_many(site: &Site, port: u16) -> Result<()> {
    site.lab.host.ip("link set edge mtu 30000")?;
    site.app.segment(1000)?;
    let balancer = site.balancer()?;
    send(site, &balancer, port, &[7; 3000])?;
    site.app_got(port, &[7; 3000])?;
    for _ in 0..3 {
        site.answered(&balancer, port, &[7; 1000])?;
    }
    Ok(())
}

/// More than the programs pass on in a second, whichever CPU they are on.
fn to_nobody_too_often(site: &Site, port: u16) -> Result<()> {
    const MANY: usize = 5000;
    let balancer = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    let words = [&site.header(port)[..], b"hello"].concat();
    for _ in 0..MANY {
        balancer.send_to(&words, site.service())?;
    }
    Ok(())
}

fn to_nobody(site: &Site, port: u16) -> Result<()> {
    send(site, &site.balancer()?, port, b"hello")
}
