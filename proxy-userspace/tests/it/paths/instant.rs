//! Two balancers' connections say at the same instant that they are the same client's.

use std::hint;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::counted::{Counting, Times};
use super::site::Site;
use super::{Plan, only};
use crate::lab::header::Version;
use crate::lab::scale::scaled;
use crate::lab::stream::{read_line, reset};

const FIRST_PORT: u16 = 20_000;
const WORDS: [&str; 2] = ["the first one's\n", "the other one's\n"];
/// The second one is late by fewer pauses of its CPU than this, so that all places in the programs meet.
const MOST_PAUSES: u16 = 40;

only! {
    direct:
    two_first_segments;
}

/// Both are served, from each CPU one: who comes second is another client's port to the app.
fn two_first_segments(plan: Plan<'_>) -> Result<()> {
    let rounds = scaled(500, 20_000);
    let site = plan.start()?;
    let direct = Counting::start(&site.lab, "direct_opened")?;
    let from_another_port = Counting::start(&site.lab, "to_daemon_busy")?;
    for round in 0..rounds {
        let port = FIRST_PORT + round;
        meet(&site, port, round % MOST_PAUSES)
            .with_context(|| format!("round {round} of {rounds}"))?;
    }
    direct.wait(Times::AtLeast(rounds.into()))?;
    from_another_port.wait(Times::AtLeast(1))?;
    site.no_flow_left()
}

fn meet(site: &Site, port: u16, pauses: u16) -> Result<()> {
    let header = site.header(Version::V2, port);
    let mut balancers = [site.connect(0)?, site.connect(0)?];
    at_once(&mut balancers, |at, balancer| {
        if at == 1 {
            (0..pauses).for_each(|_| hint::spin_loop());
        }
        balancer.write_all(&[&header, WORDS[at].as_bytes()].concat())
    })?;
    let clients = [echo(site)?, echo(site)?];
    let those_with_its_port = clients.iter().filter(|&client| client.port() == port);
    ensure!(those_with_its_port.count() == 1, "the app saw {clients:?}");
    for (mut balancer, words) in balancers.into_iter().zip(WORDS) {
        let heard = read_line(&mut balancer).with_context(|| format!("to {words:?}"))?;
        ensure!(heard == words.trim_end(), "{heard:?} to {words:?}");
        reset(balancer)?;
    }
    Ok(())
}

/// What one connection says, back to it.
fn echo(site: &Site) -> Result<SocketAddr> {
    let (mut app, client) = site.app.accept()?;
    let words = read_line(&mut app).with_context(|| format!("from {client}"))?;
    writeln!(app, "{words}")?;
    Ok(client)
}

/// On a CPU each.
fn at_once(
    balancers: &mut [TcpStream; 2],
    send: impl Fn(usize, &mut TcpStream) -> io::Result<()> + Sync,
) -> Result<()> {
    let is_there = [const { AtomicBool::new(false) }; 2];
    let [first, second] = balancers;
    let one = &|at: usize, balancer: &mut TcpStream| -> Result<()> {
        stay_on(at)?;
        is_there[at].store(true, Ordering::Release);
        while !is_there[1 - at].load(Ordering::Acquire) {
            hint::spin_loop();
        }
        Ok(send(at, balancer)?)
    };
    thread::scope(|scope| {
        let threads = [
            scope.spawn(move || one(0, first)),
            scope.spawn(move || one(1, second)),
        ];
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic on the way"))
    })
}

/// This thread, on the CPU that is at this place among those it may have.
fn stay_on(at: usize) -> Result<()> {
    let may = sched_getaffinity(None)?;
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| may.is_set(cpu))
        .collect();
    ensure!(cpus.len() > at, "two CPUs are needed, and there is one");
    let mut one = CpuSet::new();
    one.set(cpus[at]);
    Ok(sched_setaffinity(None, &one)?)
}
