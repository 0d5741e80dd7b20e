//! Daemons that follow each other, again and again, some after the sudden death of the one before.

use std::collections::BTreeSet;
use std::fs;
use std::mem;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::deaths::{DEFAULT, FIRST_PORT, Site, newcomers};
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT};
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::scale::scaled;
use crate::lab::stream::{expect_reset, round_trip};
use crate::lab::truepeer::keeper_of;

/// By then all is as it goes on.
const SETTLED: usize = 3;

#[test]
fn many_in_a_row_cut_nothing_and_leave_nothing() -> Result<()> {
    let mut site = Site::new(DEFAULT)?;
    let capture = Leaks::watch(&site.lab.edge)?;
    let mut before = None;
    for round in 1..=scaled(6, 100) {
        let mut relayed = through_the_daemon(&site, round)?;
        if round % 10 == 5 {
            killed(&mut site)?;
            expect_reset(&mut relayed)?;
        } else {
            let mut old = taken_over(&mut site)?;
            round_trip(&mut relayed, b"still through the old one")?;
            drop(relayed);
            ensure!(old.wait_exit()?.code() == Some(0), "round {round}");
        }
        let direct = site.direct()?;
        ensure!(
            direct >= site.open.len(),
            "{direct} are known in round {round}"
        );
        if round == SETTLED {
            before = Some(Held::by(&site.daemon)?);
        }
    }
    let before = before.context("enough rounds")?;
    let mut now = None;
    poll::until("the last one to hold what the third one did", || {
        let held = now.insert(Held::by(&site.daemon)?);
        Ok((*held == before).then_some(()))
    })
    .with_context(|| format!("{before:?}, and then {now:?}"))?;
    capture.saw_none()?;
    let Site {
        lab,
        open,
        mut daemon,
        ..
    } = site;
    drop(open);
    daemon.signal(Signal::TERM)?;
    ensure!(daemon.wait_exit()?.code() == Some(0));
    lab.no_device_left()
}

/// In two pieces, the header can't be read by a program.
fn through_the_daemon(site: &Site, round: usize) -> Result<TcpStream> {
    let client = CLIENT.v4(FIRST_PORT - 1 - u16::try_from(round)?);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let mut relayed = site.lab.balancer(&header[..7])?;
    std::io::Write::write_all(&mut relayed, &header[7..])?;
    round_trip(&mut relayed, b"through the daemon")?;
    Ok(relayed)
}

/// Nobody is refused meanwhile. The old one has a connection to carry still.
fn taken_over(site: &mut Site) -> Result<Proc> {
    let mut next = None;
    site.under_load(|lab, truepeer| {
        let taking = &AtomicBool::new(true);
        thread::scope(|scope| {
            let comers = scope.spawn(move || newcomers(lab, taking));
            next = Some(truepeer.clone().args(["--take-over"]).start()?);
            taking.store(false, Ordering::Relaxed);
            comers.join().expect("no panic on the way").map(drop)
        })
    })?;
    let next = next.context("it was started")?;
    Ok(mem::replace(&mut site.daemon, next))
}

fn killed(site: &mut Site) -> Result<()> {
    let pid = site.daemon.pid();
    let mut next = None;
    site.under_load(|_, truepeer| {
        kill_process(pid, Signal::KILL)?;
        next = Some(truepeer.start()?);
        Ok(())
    })?;
    site.daemon = next.context("it was started")?;
    Ok(())
}

/// What a daemon has open, and its keeper.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    threads: usize,
    maps: usize,
    programs: usize,
    by_the_keeper: usize,
}

impl Held {
    fn by(daemon: &Proc) -> Result<Self> {
        let ids =
            |name: &str| Ok::<_, anyhow::Error>(BTreeSet::from_iter(daemon.fd_info(name)?).len());
        let pid = daemon.pid();
        Ok(Self {
            files: entries(pid, "fd")?,
            threads: entries(pid, "task")?,
            maps: ids("map_id")?,
            programs: ids("prog_id")?,
            by_the_keeper: entries(keeper_of(daemon)?, "fd")?,
        })
    }
}

fn entries(pid: Pid, what: &str) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/{what}", pid.as_raw_nonzero()))?.count())
}
