//! Many short connections over a bad path: 3 % of all segments lost, 3 % doubled, 3 % late, headers of
//! all sizes. Every byte is right, nobody hears of a reset, and nothing is left.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::site::{Plan, Site};
use super::{only, paths};
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT};
use crate::lab::counters::tcp;
use crate::lab::header::{Version, v2};
use crate::lab::lossy::{Faults, Nature};
use crate::lab::payload::Payload;
use crate::lab::random::Random;
use crate::lab::scale::scaled;
use crate::lab::tuntap::Layer;
use crate::steering::site::sysctl;

paths! {
    over_a_bad_path;
}

only! {
    direct:
    over_a_good_path;
}

const FAULTS: Faults = Faults {
    lost: 30,
    doubled: 30,
    late: 30,
};
/// How many go on at once.
const WORKERS: usize = 64;
/// Each connection has a client's port of its own.
const FIRST_PORT: u16 = 2000;

/// In full one row keeps the machine busy: two at once would only wait for each other, past the
/// balancers' patience and the daemon's for headers.
static FULL: Mutex<()> = Mutex::new(());

fn over_a_bad_path(plan: Plan<'_>) -> Result<()> {
    let site = start(plan, FAULTS)?;
    run(&site, scaled(500, 60_000))?;
    let counted = site.wire.as_ref().context("a wire")?.counted();
    let least = counted.lost.min(counted.doubled).min(counted.late);
    ensure!(least > 20, "{counted:?}");
    Ok(())
}

fn over_a_good_path(plan: Plan<'_>) -> Result<()> {
    let site = start(plan, Faults::default())?;
    run(&site, scaled(2000, 60_000))
}

fn start(plan: Plan<'_>, faults: Faults) -> Result<Site> {
    let wire = Nature {
        faults,
        ..Nature::sound(Layer::Tap)
    };
    Plan {
        wire: Some(wire),
        // A header that is lost twice or thrice comes after more than the default.
        args: &["--header-timeout", "1m"],
        set_up: &|lab| {
            // The balancer needs a port for each, also while earlier ones are in TIME_WAIT.
            sysctl(&lab.client, "ipv4/ip_local_port_range", "1024 65535")?;
            sysctl(&lab.client, "ipv4/tcp_tw_reuse", "1")
        },
        ..plan.far()
    }
    .start()
}

fn run(site: &Site, count: u16) -> Result<()> {
    let is_full = scaled(false, true);
    let _alone = is_full.then(|| FULL.lock().unwrap_or_else(PoisonError::into_inner));
    let next = &AtomicU16::new(0);
    thread::scope(|scope| {
        let apps: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || serve(site, share(count, worker))))
            .collect();
        let balancers: Vec<_> = (0..WORKERS)
            .map(|_| scope.spawn(move || connect_all(site, next, count)))
            .collect();
        let mut ends = balancers.into_iter().chain(apps);
        ends.try_for_each(|end| end.join().expect("no panic on the way"))
    })?;
    let end = [&site.lab.host, site.balancers_netns()];
    for netns in end {
        assert_eq!(tcp(netns, "EstabResets")?, 0, "resets");
    }
    site.no_flow_left()
}

/// How many of the connections this worker serves.
fn share(count: u16, worker: usize) -> usize {
    let count = usize::from(count);
    (count + worker) / WORKERS
}

/// One exchange, which both ends can compute from the client's port.
struct Exchange {
    payload: Payload,
    question: usize,
    answer: usize,
}

impl Exchange {
    fn of(client: SocketAddr) -> Self {
        let mut random = Random::new(u64::from(client.port()) * 0x9e37_79b9);
        random.next();
        let mut length = || 1 + random.below(8000);
        Self {
            question: length(),
            answer: length(),
            payload: Payload::short(client.port().into()),
        }
    }
}

fn serve(site: &Site, count: usize) -> Result<()> {
    for _ in 0..count {
        let (mut stream, client) = site.app.accept()?;
        let exchange = Exchange::of(client);
        answer(&mut stream, &exchange).with_context(|| format!("the app with {client}"))?;
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, exchange: &Exchange) -> Result<()> {
    exchange.payload.receive(stream, exchange.question)?;
    exchange.payload.send(stream, exchange.answer)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

fn connect_all(site: &Site, next: &AtomicU16, count: u16) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok(());
        }
        let client = site.of(CLIENT, FIRST_PORT + number);
        connect(site, client, number).with_context(|| format!("the balancer for {client}"))?;
    }
}

/// Every second header is in the same segment as the question.
fn connect(site: &Site, client: SocketAddr, number: u16) -> Result<()> {
    let exchange = Exchange::of(client);
    let mut stream = site.connect(0)?;
    let mut first = header(site, client, number);
    if number.is_multiple_of(2) {
        stream.write_all(&first)?;
        first.clear();
    }
    exchange.payload.send(&mut first, exchange.question)?;
    stream.write_all(&first)?;
    stream.shutdown(Shutdown::Write)?;
    exchange.payload.receive(&mut stream, exchange.answer)?;
    ensure!(stream.read(&mut [0])? == 0);
    Ok(())
}

/// v1, or v2 with padding of any length.
fn header(site: &Site, client: SocketAddr, number: u16) -> Vec<u8> {
    let front = site.of(FRONT, FRONT_PORT);
    if number.is_multiple_of(4) {
        return Version::V1.header(client, front);
    }
    let [_, padding] = (number % 73).to_be_bytes();
    let noop = [&[4, 0, padding][..], &vec![0; padding.into()]].concat();
    v2(0x21, client, front, &noop)
}
