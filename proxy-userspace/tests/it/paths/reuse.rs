//! The same client ip:port again, and the balancer's as well, right after the last connection.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::counted::{Counting, Times};
use super::headers::after_one_segment;
use super::site::Site;
use super::{CLIENT_PORT, Plan, only, paths};
use crate::lab::Lab;
use crate::lab::counters;
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::stream::{expect, expect_end, read_line, reset};
use crate::lab::talk::{Side, Talk};
use crate::steering::reuse::{the_app_closes_first, the_app_resets, the_client_resets};

const ROUNDS: usize = 50;
/// A port that no kernel picks by itself, and that nobody else here has.
const BALANCER_PORT: u16 = 20_400;

paths! {
    after_the_app_closes_first;
    after_the_balancer_closes_first;
    after_the_app_resets;
    after_the_balancer_resets;
}

only! {
    direct:
    by_the_daemon_right_after_a_direct_one;
    by_both_paths_in_turns;
    while_the_first_one_is_still_coming;
}

/// The application has no room for it yet: what is known of it stays, and the other one is the daemon's.
fn while_the_first_one_is_still_coming(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    site.app.limit(0)?;
    let busy = Counting::start(&site.lab, "to_daemon_busy")?;
    let coming = Counting::start(&site.lab, "direct_again")?;
    let _before = site.begin(CLIENT_PORT + 1, b"before\n")?;
    let mut first = site.begin(CLIENT_PORT, b"first\n")?;
    coming.wait(Times::AtLeast(1))?;
    let mut second = site.begin(CLIENT_PORT, b"other\n")?;
    busy.wait(Times::AtLeast(1))?;
    let mut served = Vec::new();
    for _ in 0..3 {
        let (mut app, client) = site.app.accept()?;
        let words = read_line(&mut app)?;
        served.push((words, client.port() == CLIENT_PORT, app));
    }
    let of = |wanted| served.iter().find(|(words, ..)| words == wanted);
    let (_, is_own_port, _) = of("first").context("the first one")?;
    ensure!(*is_own_port, "the first one's port is another's");
    let (_, is_own_port, _) = of("other").context("the second one")?;
    ensure!(!is_own_port, "both have one port");
    first.write_all(b"more")?;
    second.write_all(b"more")?;
    for (words, _, app) in &mut served {
        if words != "before" {
            expect(app, b"more")?;
        }
    }
    Ok(())
}

/// What is left of the last connection is in no way of the next.
fn by_both_paths_in_turns(plan: Plan<'_>) -> Result<()> {
    let ends = [the_app_resets, the_client_resets];
    for end in ends {
        let site = plan.start()?;
        for round in 0..3 {
            for path in Path::BOTH {
                let case = || format!("round {round}, by {path:?}");
                let strays = || counters::tcp(&site.lab.edge, "OutRsts");
                let before = strays()?;
                let mut talk = open_by(&site, path, CLIENT_PORT).with_context(case)?;
                talk.round_trip().with_context(case)?;
                ensure!(strays()? == before, "the last balancer heard of it");
                site.lab.wait_path(&talk, path).with_context(case)?;
                let balancer = talk.balancer.local_addr()?;
                end(&site.lab, talk).with_context(case)?;
                wait_unlisted(&site, balancer).with_context(case)?;
            }
        }
    }
    Ok(())
}

/// The first half of a header is for the daemon.
pub fn open_by(site: &Site, path: Path, port: u16) -> Result<Talk> {
    if path == Path::Direct {
        return site.open(port);
    }
    let header = site.header(Version::V2, port);
    let (first, rest) = header.split_at(9);
    let balancer = after_one_segment(site, first)?;
    (&balancer).write_all(rest)?;
    Talk::accept(balancer, &site.app, site.client(port))
}

pub fn wait_unlisted(site: &Site, balancer: SocketAddr) -> Result<()> {
    poll::until("the connection to end", || {
        let shown = site.lab.shown("connections")?;
        let all = shown.as_array().context("an array")?;
        let is_there = all
            .iter()
            .any(|one| one["balancer"] == balancer.to_string());
        Ok((!is_there).then_some(()))
    })
}

fn after_the_app_closes_first(plan: Plan<'_>) -> Result<()> {
    again(plan, Paths::Any, |_| BALANCER_PORT, the_app_closes_first)
}

fn after_the_app_resets(plan: Plan<'_>) -> Result<()> {
    again(plan, Paths::Same, |_| BALANCER_PORT, the_app_resets)
}

fn after_the_balancer_resets(plan: Plan<'_>) -> Result<()> {
    again(plan, Paths::Same, |_| BALANCER_PORT, the_client_resets)
}

/// The balancer's own kernel keeps its port in TIME_WAIT, so it is another one each time.
fn after_the_balancer_closes_first(plan: Plan<'_>) -> Result<()> {
    again(
        plan,
        Paths::Same,
        |round| BALANCER_PORT + round,
        |_, talk| the_balancer_closes_first(talk),
    )
}

pub fn the_balancer_closes_first(mut talk: Talk) -> Result<()> {
    talk.balancer.shutdown(Shutdown::Write)?;
    expect_end(&mut talk.app)?;
    drop(talk.app);
    expect_end(&mut talk.balancer)
}

/// Of the connections after the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paths {
    Same,
    Any,
}

fn again(
    plan: Plan<'_>,
    paths: Paths,
    balancer_port: fn(u16) -> u16,
    end: fn(&Lab, Talk) -> Result<()>,
) -> Result<()> {
    let site = plan.start()?;
    for round in (0..).take(ROUNDS) {
        let case = || format!("round {round}");
        let mut talk = site
            .open_from(balancer_port(round), CLIENT_PORT)
            .with_context(case)?;
        talk.round_trip().with_context(case)?;
        // While the app's end is in TIME_WAIT, the daemon may have to find a way.
        if round == 0 || paths == Paths::Same {
            talk.warm_up(&site.lab, site.path).with_context(case)?;
        }
        end(&site.lab, talk).with_context(case)?;
    }
    Ok(())
}

/// Before anybody has looked after the one that is over.
fn by_the_daemon_right_after_a_direct_one(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for first in [Side::Balancer, Side::App] {
        for round in 0..10 {
            let mut talk = open_by(&site, Path::Direct, CLIENT_PORT)?;
            talk.round_trip()?;
            talk.close(first)?;
            let again = open_by(&site, Path::Daemon, CLIENT_PORT);
            let mut again = again.with_context(|| format!("round {round}, after {first:?}"))?;
            again.round_trip()?;
            let balancer = again.balancer.local_addr()?;
            reset(again.balancer)?;
            wait_unlisted(&site, balancer)?;
        }
    }
    Ok(())
}
