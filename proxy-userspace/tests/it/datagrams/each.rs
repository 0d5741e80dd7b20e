//! What each client, and each balancer, may have and begin, whichever path its datagrams take.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::clients::counted;
use super::limits::{BUSY, counts, listed, refused_as, with_another_balancer};
use super::rows;
use super::site::{Plan, Site};
use super::take_over::goes_on_counting;
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT, HOST, OTHER_CLIENT};
use crate::lab::datagram::{self, Framing};
use crate::lab::flows::age;
use crate::lab::header::v2_raw;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::served::{self, GAME, Served, player, plays};
use crate::reload::by_both_paths;

rows! {
    a_client_has_as_many_as_he_may;
    silent_ones_of_a_client_make_room;
    a_client_begins_as_many_as_he_may;
    a_balancer_begins_as_many_as_it_may;
    whoever_is_refused_takes_nothing_of_the_balancer_s;
    who_is_known_is_no_new_one;
    what_the_balancer_says_for_itself_counts_for_no_client;
    the_next_daemon_goes_on_counting;
}

by_both_paths! {
    a_reload_counts_those_there;
}

/// One more datagram that the app gets, of another client than the site's.
fn of_another(site: &Site, balancer: &UdpSocket, port: u16) -> Result<()> {
    let client = another(site, port);
    let header = site.framing.header(client, site.front());
    balancer.send(&[&header[..], b"me too"].concat())?;
    let (seen, words) = site.app.next()?;
    ensure!(seen == client && words == b"me too", "the app sees {seen}");
    datagram::receive(balancer).context("the answer").map(drop)
}

fn another(site: &Site, port: u16) -> SocketAddr {
    OTHER_CLIENT.like(site.client(port), port)
}

fn a_client_has_as_many_as_he_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "2"];
    for &framing in plan.framings() {
        let plan = Plan {
            args,
            framing,
            ..plan
        };
        its_own_make_room(plan.start()?).with_context(|| format!("{framing:?}"))?;
    }
    Ok(())
}

fn its_own_make_room(site: Site) -> Result<()> {
    // Each has a socket of the balancer's, as v2-first wants it.
    let sockets: Result<Vec<_>> = (0..5).map(|_| site.balancer()).collect();
    let [first, second, third, fourth, other] = &sockets?[..] else {
        unreachable!("five")
    };
    of_another(&site, other, 900)?;
    site.exchange(first, 1000, b"hello")?;
    site.exchange(second, 1001, b"hello")?;
    refused_as(&site, third, 1002, "datagram_client_full")?;
    age(&site.truepeer, BUSY)?;
    site.exchange_with(second, &site.next_header(1001), 1001, b"still here")?;
    // The other client's is as old, and stays.
    site.exchange(fourth, 1003, b"hello")?;
    let shown = site.lab.shown("connections")?;
    let all = shown.as_array().context("an array")?;
    let listed = |client: SocketAddr| all.iter().any(|it| it["client"] == client.to_string());
    let clients = [site.client(1001), site.client(1003), another(&site, 900)];
    ensure!(clients.into_iter().all(listed), "{shown:#}");
    ensure!(all.len() == 3, "{shown:#}");
    let evicted = counts(&site, "datagram_evicted")?;
    ensure!(evicted == 1, "{evicted} were evicted");
    let shown = site.lab.shown("status")?["services"][0]["each"].take();
    ensure!(shown["maxconn_per_client"] == 2, "{shown:#}");
    site.leaks.saw_none()
}

/// They are forgotten, and nobody is evicted for a new one.
fn silent_ones_of_a_client_make_room(plan: Plan<'_>) -> Result<()> {
    const LONGER_THAN_CLOSE_AFTER: u32 = 62;
    let args = &["--maxconn-per-client", "3"];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    for ports in [1000..1003, 1003..1006] {
        for port in ports {
            site.exchange(&balancer, port, b"hello")?;
        }
        refused_as(&site, &balancer, 2000, "datagram_client_full")?;
        age(&site.truepeer, LONGER_THAN_CLOSE_AFTER)?;
    }
    // One that comes back.
    site.exchange(&balancer, 1003, b"again")?;
    let evicted = counts(&site, "datagram_evicted")?;
    ensure!(evicted == 0, "{evicted} were evicted");
    listed(&site, &[1003])?;
    site.end()
}

/// Sends datagrams of ports from this one on until one is refused; how many were served. A slow machine gets tokens
/// meanwhile.
fn until_refused(site: &Site, balancer: &UdpSocket, port: u16) -> Result<u16> {
    let mut served = 0;
    poll::until("a datagram to be refused", || {
        let before = counts(site, "datagram_too_fast")?;
        let words = [&site.header(port + served)[..], b"hello"].concat();
        balancer.send(&words)?;
        poll::until("what becomes of it", || {
            if counts(site, "datagram_too_fast")? > before {
                return Ok(Some(false));
            }
            let opened = counts(site, "datagram_opened")?;
            Ok((opened > served.into()).then_some(true))
        })
        .map(|is_served| {
            served += u16::from(is_served);
            (!is_served).then_some(())
        })
    })?;
    for _ in 0..served {
        site.app.next()?;
        datagram::receive(balancer)?;
    }
    Ok(served)
}

fn a_client_begins_as_many_as_he_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconnrate-per-client", "3"];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    let served = until_refused(&site, &balancer, 1000)?;
    ensure!(served >= 3, "a bucket of {served}");
    site.app.saw_nobody()?;
    of_another(&site, &balancer, 900)?;
    site.exchange(&balancer, 1000, b"still here")?;
    site.end()
}

fn a_balancer_begins_as_many_as_it_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconnrate-per-balancer", "3"];
    let (site, balancer, other) = with_another_balancer(Plan { args, ..plan })?;
    let served = until_refused(&site, &balancer, 1000)?;
    ensure!(served >= 3, "a bucket of {served}");
    site.app.saw_nobody()?;
    site.exchange(&other, 2000, b"hello")?;
    site.exchange(&balancer, 1000, b"still here")?;
    site.end()
}

fn whoever_is_refused_takes_nothing_of_the_balancer_s(plan: Plan<'_>) -> Result<()> {
    let args = &[
        "--maxconn-per-client",
        "1",
        "--maxconnrate-per-balancer",
        "2",
    ];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    for port in 1001..1006 {
        refused_as(&site, &balancer, port, "datagram_client_full")?;
    }
    of_another(&site, &balancer, 900)?;
    site.exchange(&balancer, 1000, b"still here")?;
    site.end()
}

const ONE_OF_EACH: [&str; 6] = [
    "--maxconn-per-client",
    "1",
    "--maxconnrate-per-client",
    "1",
    "--maxconnrate-per-balancer",
    "1",
];

/// By another socket of his balancer's, or as often as he likes.
fn who_is_known_is_no_new_one(plan: Plan<'_>) -> Result<()> {
    let args = &ONE_OF_EACH;
    let site = Plan { args, ..plan }.start()?;
    for _ in 0..4 {
        site.exchange(&site.balancer()?, 1000, b"hello")?;
    }
    for counter in ["datagram_too_fast", "datagram_client_full"] {
        ensure!(counts(&site, counter)? == 0, "{counter}");
    }
    site.end()
}

fn what_the_balancer_says_for_itself_counts_for_no_client(plan: Plan<'_>) -> Result<()> {
    let args = &ONE_OF_EACH;
    let site = Plan {
        args,
        framing: Framing::Any,
        ..plan
    }
    .start()?;
    for _ in 0..3 {
        let balancer = site.balancer()?;
        balancer.send(&[&v2_raw(0x20, 0, &[])[..], b"are you there"].concat())?;
        let (client, _) = site.app.next()?;
        ensure!(client == balancer.local_addr()?, "the app sees {client}");
        datagram::receive(&balancer).context("the answer")?;
    }
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.leaks.saw_none()
}

fn the_next_daemon_goes_on_counting(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1"];
    goes_on_counting(Plan { args, ..plan }, "datagram_client_full")
}

fn a_reload_counts_those_there(path: Path) -> Result<()> {
    let site = served::Site::new(path)?;
    let lab = &site.lab;
    let games = GAME.players(lab)?;
    let _truepeer = site.start(&[GAME])?;
    let limited = Served {
        keys: "maxconn_per_client = 1",
        ..GAME
    };
    let refused = || -> Result<u64> {
        let kernel = lab.shown("status")?["kernel"].take();
        kernel["datagram_client_full"].as_u64().context("a number")
    };
    for (game, at) in games.iter().zip(HOST.both(0)) {
        site.reload(&[GAME], &["reloaded"])?;
        let source = crate::lab::addr::BALANCER.like(at, 0);
        let balancer = player(lab, source, GAME)?;
        plays(&balancer, game)?;
        site.reload(&[limited], &["changed game: maxconn_per_client"])?;
        let second = CLIENT.like(at, 1001);
        let header = datagram::v2(second, FRONT.like(at, FRONT_PORT), &[]);
        let words = [&header[..], b"hello"].concat();
        let before = refused()?;
        balancer.send(&words)?;
        poll::until("the second one to be refused", || {
            Ok((refused()? > before).then_some(()))
        })?;
        plays(&balancer, game)?;
        site.reload(&[GAME], &["changed game: maxconn_per_client"])?;
        balancer.send(&words)?;
        let (seen, _) = game.next()?;
        ensure!(seen == second, "the game sees {seen}");
        datagram::receive(&balancer)?;
    }
    Ok(())
}

/// The programs, or the daemon by them, have refused one for this.
pub fn one_too_fast(site: &Site, port: u16) -> Result<()> {
    let balancer = site.balancer()?;
    let before = counts(site, "datagram_too_fast")?;
    for port in port..port + 5 {
        balancer.send(&[&site.header(port)[..], b"hello"].concat())?;
    }
    counted(site, "datagram_too_fast", before + 1)
}
