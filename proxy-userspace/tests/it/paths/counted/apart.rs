//! What needs a host or a daemon of its own.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::Times::{AtLeast, Once};
use super::{Counting, Plan, Row, Site, frames};
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT,
};
use crate::lab::app::App;
use crate::lab::forge::{ACK, SYN, SYN_OPTIONS, Segment};
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::raw;
use crate::lab::spray::Spray;
use crate::lab::stream::{expect, has_closed};
use crate::lab::talk::Talk;
use crate::paths::{CLIENT_PORT, Family, reuse};
use crate::steering::site::sysctl;

/// With a header timeout of a second.
pub const LATE: &[Row<Site>] = &[Row("direct_late", AtLeast(1), header_too_late)];
/// With a header timeout of a minute.
pub const SPENT: &[Row<Site>] = &[Row("direct_spent", AtLeast(2), first_segment_again)];
/// By a wire that cuts what is long.
pub const FRAGMENTS: &[Row<Site>] = &[Row("to_daemon_fragments", Once, first_segment_in_fragments)];
/// With room for one connection.
pub const FULL: &[Row<Site>] = &[Row("to_daemon_full", Once, second_connection)];
/// With room for one connection of each client.
pub const LIMIT: &[Row<Site>] = &[Row("to_daemon_limit", Once, second_of_a_client)];
pub const ELSEWHERE: &[Row<Elsewhere>] = &[
    Row("inject_forwarded", AtLeast(1), has_a_route),
    Row("inject_no_route", AtLeast(1), has_none),
];
pub const STARTING: &str = "dispatch_no_listener";
pub const ENDING: &str = "daemon_down";

/// By a cookie, and by the pending table.
fn header_too_late(site: &Site, port: u16) -> Result<()> {
    let with_timestamps = site.connect(0)?;
    sysctl(site.balancers_netns(), "ipv4/tcp_timestamps", "0")?;
    let without = site.connect(0)?;
    // The programs' clock has ticks of a second and more, and there is nothing to ask meanwhile.
    thread::sleep(Duration::from_millis(2500));
    for mut balancer in [with_timestamps, without] {
        balancer.write_all(&site.header(Version::V2, port))?;
        ensure!(has_closed(&mut balancer), "it was taken");
    }
    site.app.saw_nobody()
}

/// The first one is lost. One in the balancer's name of which no handshake tells changes nothing.
fn first_segment_in_fragments(site: &Site, port: u16) -> Result<()> {
    let words = [7; 1000];
    let forged = Segment {
        number: 1,
        acknowledged: 1,
        flags: ACK,
        payload: &words,
        ..frames::segment(site, port)
    };
    frames::send(site, forged)?;
    ensure!(has_closed(&mut site.begin(port, &words)?), "it was taken");
    site.app.saw_nobody()?;
    let balancer = site.begin(port + 1, &words)?;
    let mut talk = Talk::accept(balancer, &site.app, site.client(port + 1))?;
    expect(&mut talk.app, &words)?;
    talk.ping_pong(2000, 10)
}

/// By either path, as a network may deliver it twice, once its connection is over.
fn first_segment_again(site: &Site, port: u16) -> Result<()> {
    for (path, port) in Path::BOTH.into_iter().zip(port..) {
        let counting = Counting::start(&site.lab, "direct_spent")?;
        let mut wire = raw::tap_ingress(&site.lab.host)?;
        let mut talk = reuse::open_by(site, path, port)?;
        talk.round_trip()?;
        site.lab.wait_path(&talk, path)?;
        let balancer = talk.balancer.local_addr()?;
        reuse::the_balancer_closes_first(talk)?;
        reuse::wait_unlisted(site, balancer)?;
        site.no_flow_left()?;
        let mut packet = vec![0; 1 << 16];
        let first = loop {
            let len = wire.read(&mut packet)?;
            let segment = Segment::parse(&packet[..len]).filter(|segment| segment.from == balancer);
            if let Some(first) = segment.filter(|segment| !segment.payload.is_empty()) {
                break first;
            }
        };
        // The last acknowledgment of all may still be on its way.
        poll::until("a copy to be known", || {
            frames::send(site, first)?;
            Ok((counting.so_far()? > 0).then_some(()))
        })
        .with_context(|| format!("by {path:?}"))?;
    }
    site.app.saw_nobody()
}

fn second_connection(site: &Site, port: u16) -> Result<()> {
    let counting = Counting::start(&site.lab, "to_daemon_full")?;
    let _first = site.open(port)?;
    let _second = site.connect(0)?;
    counting.wait(Once)
}

fn second_of_a_client(site: &Site, port: u16) -> Result<()> {
    let _first = site.open(port)?;
    let mut second = site.begin(port + 1, b"words")?;
    ensure!(has_closed(&mut second), "it was taken");
    Ok(())
}

/// An app that is not on this host, and may not be there at all.
pub struct Elsewhere {
    _truepeer: Proc,
    family: Family,
    pub lab: Lab,
}

/// Of networks for documentation.
const THERE: [&str; 2] = ["192.0.2.80", "2001:db8:80::80"];

impl Elsewhere {
    pub fn start(plan: Plan<'_>) -> Result<Self> {
        let lab = Lab::new()?;
        let [v4, v6] = THERE;
        let truepeer = lab.truepeer().no_targets().args([
            "--target4",
            &format!("{v4}:{APP_PORT}"),
            "--target6",
            &format!("[{v6}]:{APP_PORT}"),
        ]);
        Ok(Self {
            _truepeer: truepeer.start()?,
            family: plan.family,
            lab,
        })
    }

    /// Until the programs have seen it.
    fn connect(&self, port: u16, counter: &'static str) -> Result<()> {
        let counting = Counting::start(&self.lab, counter)?;
        let of = |pair, port| (self.family)(pair, port);
        let header = Version::V2.header(of(CLIENT, port), of(FRONT, FRONT_PORT));
        let service = of(HOST, TRUEPEER_PORT);
        let _balancer = self.lab.balancer_to(service, &header)?;
        counting.wait(AtLeast(1))
    }
}

fn has_a_route(elsewhere: &Elsewhere, port: u16) -> Result<()> {
    elsewhere.connect(port, "inject_forwarded")
}

fn has_none(elsewhere: &Elsewhere, port: u16) -> Result<()> {
    let [v4, v6] = THERE;
    elsewhere.lab.host.ip(&format!(
        "route add unreachable {v4}
         route add unreachable {v6}"
    ))?;
    elsewhere.connect(port, "inject_no_route")
}

/// SYNs come all the time; addresses are claimed before anything listens there.
pub fn starts(plan: Plan<'_>) -> Result<()> {
    // Whether one meets the moment is up to the scheduler.
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        if somebody_comes_too_early(&plan)? {
            return Ok(());
        }
    }
    bail!("nobody came too early")
}

/// The daemon is there to be asked for as long as a connection is open.
pub fn ends(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let counting = Counting::start(&site.lab, ENDING)?;
    let mut open = site.open(CLIENT_PORT)?;
    site.truepeer.signal(Signal::TERM)?;
    // The kernel itself refuses one that comes to a listener which is being closed.
    poll::until("a refusal that counts", || {
        let refused = site.connect(0).is_err();
        Ok((refused && counting.so_far()? > 0).then_some(()))
    })?;
    open.ping_pong(1, 100)
}

fn somebody_comes_too_early(plan: &Plan<'_>) -> Result<bool> {
    let (family, args) = (plan.family, plan.told.args());
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, family(LOOPBACK, APP_PORT))?;
    let listen: Vec<SocketAddr> = (7000..7064).map(|port| family(HOST, port)).collect();
    let last = *listen.last().context("addresses")?;
    let spray = Spray::onto(&lab.edge, "host", lab.host.mac("edge")?)?;
    let is_there = AtomicBool::new(false);
    let truepeer = thread::scope(|scope| {
        let spraying = scope.spawn(|| -> Result<()> {
            for port in (1024..).cycle() {
                if is_there.load(Ordering::Relaxed) {
                    break;
                }
                spray.send([Segment {
                    flags: SYN,
                    options: SYN_OPTIONS,
                    ..Segment::between(family(BALANCER, port), last)
                }])?;
            }
            Ok(())
        });
        // From this thread: it dies with the one that starts it.
        let truepeer = lab.truepeer().listen(listen).args(args).start();
        is_there.store(true, Ordering::Relaxed);
        spraying.join().expect("no panic on the way")?;
        truepeer
    })?;
    let counted = super::count(&lab, STARTING)?;
    drop(truepeer);
    Ok(counted > 0)
}
