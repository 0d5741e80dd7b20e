//! The same client ip:port again, at once, whoever closed first: the app sees the same port again.

use std::fs;
use std::net::Shutdown;

use anyhow::{Context, Result, ensure};

use super::{ADDRESS_V4, Bound, DUAL_V4, LOOPBACK_V4, LOOPBACK_V6, Talk, WILDCARD_V4, WILDCARD_V6};
use crate::lab::Lab;
use crate::lab::addr::APP_PORT;
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::stream::{expect_end, expect_reset, reset};

macro_rules! again {
    ($($(#[$meta:meta])* $end:ident;)*) => { $(
        $(#[$meta])*
        mod $end {
            use super::*;
            #[test] fn wildcard_v4() -> Result<()> { again(WILDCARD_V4, super::$end) }
            #[test] fn loopback_v4() -> Result<()> { again(LOOPBACK_V4, super::$end) }
            #[test] fn address_v4() -> Result<()> { again(ADDRESS_V4, super::$end) }
            #[test] fn dual_v4() -> Result<()> { again(DUAL_V4, super::$end) }
            #[test] fn wildcard_v6() -> Result<()> { again(WILDCARD_V6, super::$end) }
            #[test] fn loopback_v6() -> Result<()> { again(LOOPBACK_V6, super::$end) }
        }
    )* };
}

again! {
    the_client_closes_first;
    the_app_closes_first;
    the_client_resets;
    the_app_resets;
}

fn again(bound: Bound, end: fn(&Lab, Talk) -> Result<()>) -> Result<()> {
    const ROUNDS: usize = 4;
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bound.to)?;
    let _truepeer = lab.truepeer().targets_for(bound.to).start()?;
    for round in 0..ROUNDS {
        let mut talk = Talk::open(&lab, &app, bound.client, Version::V2)
            .with_context(|| format!("round {round}"))?;
        talk.round_trip()?;
        end(&lab, talk)?;
    }
    Ok(())
}

/// Leaves truepeer's side in TIME_WAIT.
pub fn the_client_closes_first(_: &Lab, mut talk: Talk) -> Result<()> {
    talk.balancer.shutdown(Shutdown::Write)?;
    expect_end(&mut talk.app)?;
    drop(talk.app);
    expect_end(&mut talk.balancer)
}

/// Leaves the app's side in TIME_WAIT.
pub fn the_app_closes_first(lab: &Lab, mut talk: Talk) -> Result<()> {
    talk.app.shutdown(Shutdown::Write)?;
    expect_end(&mut talk.balancer)?;
    drop(talk.balancer);
    expect_end(&mut talk.app)?;
    drop(talk.app);
    poll::until("the app's TIME_WAIT", || {
        Ok(in_time_wait(lab)?.then_some(()))
    })
}

pub fn the_client_resets(_: &Lab, mut talk: Talk) -> Result<()> {
    reset(talk.balancer)?;
    expect_reset(&mut talk.app)
}

pub fn the_app_resets(_: &Lab, mut talk: Talk) -> Result<()> {
    reset(talk.app)?;
    expect_reset(&mut talk.balancer)
}

/// Whether the host has a socket of the app in TIME_WAIT, and none on its way there.
fn in_time_wait(lab: &Lab) -> Result<bool> {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let tables = ["tcp", "tcp6"].map(|table| {
        let path = format!("/proc/thread-self/net/{table}");
        lab.host.enter(|| fs::read_to_string(path))
    });
    let port = format!(":{APP_PORT:04X}");
    let mut states = Vec::new();
    for table in tables {
        for line in table?.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [_, local, _, state, ..] = fields[..]
                && local.ends_with(&port)
                && state != LISTEN
            {
                states.push(state.to_owned());
            }
        }
    }
    ensure!(states.len() <= 1, "states {states:?}");
    Ok(states == [TIME_WAIT])
}
