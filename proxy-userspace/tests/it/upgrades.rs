//! Daemons that follow each other, again and again, some after the sudden death of the one before.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::deaths::{DEFAULT, FIRST_PORT, Site};
use crate::lab::leaks::Leaks;
use crate::lab::poll;
use crate::lab::proc::{Proc, entries};
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
        let port = FIRST_PORT - 1 - u16::try_from(round)?;
        let mut relayed = site.through_the_daemon(port)?;
        if round % 10 == 5 {
            site.follow_a_killed_one()?;
            expect_reset(&mut relayed)?;
        } else {
            // It has a connection to carry still.
            let (mut old, _) = site.take_over()?;
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
    site.end()
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
