//! Each of the programs' counters, as `status` shows it, and what makes it count: that, and so often.
//!
//! Rows of one table share a host, one after the other. A counter that isn't in [`rows`] fails the last
//! test here.

mod apart;
mod by_daemon;
mod direct;
pub mod frames;
mod to_daemon;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::site::{Plan, Site};
use super::{CLIENT_PORT, only};
use crate::datagrams;
use crate::drain;
use crate::guard;
use crate::lab::addr::Pair;
use crate::lab::lossy::Nature;
use crate::lab::mangle;
use crate::lab::tuntap::Layer;
use crate::lab::{Lab, poll};
use crate::outsiders;

only! {
    direct:
    direct_connections;
    connections_that_go_to_the_daemon;
    late_headers;
    late_copies;
    first_segments_in_fragments;
    too_many_connections;
    too_many_of_a_client;
    a_daemon_that_ends;
}

only! {
    daemon:
    the_daemon_s_connections;
    apps_elsewhere;
    a_daemon_that_starts;
}

/// What no test can bring about from outside, and why.
const OUT_OF_REACH: [(&str, &str); 4] = [
    (
        "reply_failed",
        "the kernel has no memory for an Ethernet header, or for a copy of one",
    ),
    ("inject_failed", "the same"),
    ("datagram_failed", "the same"),
    (
        "deliver_failed",
        "bpf_sk_assign refuses a listener at ingress, which it does for none that a lookup finds",
    ),
];

/// How often a counter has to count.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    Once,
    /// Where it is up to TCP how many segments there are, or how often one comes again.
    AtLeast(u64),
}

impl Times {
    const fn least(self) -> u64 {
        match self {
            Self::Once => 1,
            Self::AtLeast(least) => least,
        }
    }

    const fn most(self) -> u64 {
        match self {
            Self::Once => 1,
            Self::AtLeast(_) => u64::MAX,
        }
    }
}

/// A counter, and what makes it count: by a client's ports from the given one on, of which each row has
/// ten.
pub struct Row<S>(pub &'static str, pub Times, pub fn(&S, u16) -> Result<()>);

const PORTS: u16 = 10;

pub fn run<'a, S: 'a>(
    lab: &Lab,
    subject: &S,
    rows: impl IntoIterator<Item = &'a Row<S>>,
) -> Result<()> {
    let ports = (CLIENT_PORT..).step_by(PORTS.into());
    for (Row(name, times, provoke), port) in rows.into_iter().zip(ports) {
        let counting = Counting::start(lab, name)?;
        provoke(subject, port).context(*name)?;
        counting.wait(*times)?;
    }
    Ok(())
}

fn opens(site: &Site, port: u16) -> Result<()> {
    site.open(port).map(drop)
}

fn talks(site: &Site, port: u16) -> Result<()> {
    site.open(port)?.ping_pong(16, 100)
}

/// What a counter counts from some moment on.
pub struct Counting<'a> {
    lab: &'a Lab,
    name: &'static str,
    before: u64,
}

impl<'a> Counting<'a> {
    pub fn start(lab: &'a Lab, name: &'static str) -> Result<Self> {
        let before = count(lab, name)?;
        Ok(Self { lab, name, before })
    }

    fn so_far(&self) -> Result<u64> {
        Ok(count(self.lab, self.name)? - self.before)
    }

    pub fn wait(&self, times: Times) -> Result<()> {
        let mut counted = 0;
        poll::until("a counter to count", || {
            counted = self.so_far()?;
            Ok((counted >= times.least()).then_some(()))
        })
        .with_context(|| format!("{} has counted {counted}", self.name))?;
        let most = times.most();
        ensure!(counted <= most, "{} has counted {counted}", self.name);
        Ok(())
    }
}

fn count(lab: &Lab, name: &str) -> Result<u64> {
    let counts = counts(lab)?;
    counts
        .get(name)
        .copied()
        .with_context(|| format!("status has no {name}"))
}

fn counts(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut status = lab.shown("status")?;
    Ok(serde_json::from_value(status["kernel"].take())?)
}

fn direct_connections(plan: Plan<'_>) -> Result<()> {
    let site = plan.far().start()?;
    run(&site.lab, &site, direct::ROWS)
}

fn connections_that_go_to_the_daemon(plan: Plan<'_>) -> Result<()> {
    let site = plan.far().start()?;
    run(&site.lab, &site, to_daemon::ROWS)
}

fn the_daemon_s_connections(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    run(&site.lab, &site, by_daemon::ROWS)
}

#[test]
fn neighbours_of_ipv4() -> Result<()> {
    let site: Site = Plan::daemon(Pair::v4).start()?;
    run(&site.lab, &site, by_daemon::V4)
}

fn late_headers(plan: Plan<'_>) -> Result<()> {
    let args = &["--header-timeout", "1s"];
    let site = Plan { args, ..plan }.start()?;
    run(&site.lab, &site, apart::LATE)
}

fn late_copies(plan: Plan<'_>) -> Result<()> {
    let args = &["--header-timeout", "1m"];
    let site = Plan { args, ..plan }.start()?;
    run(&site.lab, &site, apart::SPENT)
}

fn first_segments_in_fragments(plan: Plan<'_>) -> Result<()> {
    let nature = Nature {
        mangle: Some(mangle::fragment),
        ..Nature::sound(Layer::Tap)
    };
    let wire = Some(nature);
    let site = Plan { wire, ..plan }.start()?;
    run(&site.lab, &site, apart::FRAGMENTS)
}

fn too_many_connections(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn", "1"];
    let site = Plan { args, ..plan }.start()?;
    run(&site.lab, &site, apart::FULL)
}

fn too_many_of_a_client(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1"];
    let site = Plan { args, ..plan }.start()?;
    run(&site.lab, &site, apart::LIMIT)
}

fn a_daemon_that_ends(plan: Plan<'_>) -> Result<()> {
    apart::ends(plan)
}

fn a_daemon_that_starts(plan: Plan<'_>) -> Result<()> {
    apart::starts(plan)
}

fn apps_elsewhere(plan: Plan<'_>) -> Result<()> {
    let elsewhere = apart::Elsewhere::start(plan)?;
    run(&elsewhere.lab, &elsewhere, apart::ELSEWHERE)
}

pub fn names<S>(rows: &'static [Row<S>]) -> impl Iterator<Item = &'static str> {
    rows.iter().map(|Row(name, ..)| *name)
}

/// The counters that have a row.
fn rows() -> impl Iterator<Item = &'static str> {
    let direct = names(direct::ROWS).chain(names(to_daemon::ROWS));
    let apart = names(apart::LATE)
        .chain(names(apart::SPENT))
        .chain(names(apart::FRAGMENTS))
        .chain(names(apart::FULL))
        .chain(names(apart::LIMIT))
        .chain(names(apart::ELSEWHERE))
        .chain([apart::STARTING, apart::ENDING]);
    let by_daemon = names(by_daemon::ROWS).chain(names(by_daemon::V4));
    let tcp = direct.chain(by_daemon).chain(apart);
    tcp.chain(datagrams::counted::names())
        .chain(drain::COUNTED)
        .chain(guard::COUNTED)
        .chain([outsiders::COUNTED])
}

#[test]
fn every_counter_has_a_row() -> Result<()> {
    let site: Site = Plan::direct(Pair::v4).start()?;
    let shown: BTreeSet<_> = counts(&site.lab)?.into_keys().collect();
    let known = rows().chain(OUT_OF_REACH.map(|(name, _)| name));
    let known: BTreeSet<_> = known.map(str::to_owned).collect();
    let missing: Vec<_> = shown.difference(&known).collect();
    ensure!(missing.is_empty(), "without a row: {missing:?}");
    let gone: Vec<_> = known.difference(&shown).collect();
    ensure!(gone.is_empty(), "no counters any more: {gone:?}");
    Ok(())
}
