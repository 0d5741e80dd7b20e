//! The same client ip:port again, at once, whoever closed first: the app sees the same port again. In UDP nobody
//! closes anything, but sockets go, and others come.

use std::fs;
use std::net::{IpAddr, Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::{
    ADDRESS_V4, Bound, DUAL_V4, LOOPBACK_V4, LOOPBACK_V6, Talk, WILDCARD_V4, WILDCARD_V6, datagrams,
};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, HOST, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::counters;
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
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

mod datagrams_by_other_sockets {
    use super::*;

    macro_rules! again {
        ($($name:ident $app:ident;)*) => { $(
            #[test] fn $name() -> Result<()> { in_datagrams($app) }
        )* };
    }

    again! {
        wildcard_v4 WILDCARD_V4;
        loopback_v4 LOOPBACK_V4;
        address_v4 ADDRESS_V4;
        dual_v4 DUAL_V4;
        wildcard_v6 WILDCARD_V6;
        loopback_v6 LOOPBACK_V6;
    }
}

/// The balancer's next socket gets the answers then, and the app's next one the client's words.
fn in_datagrams(bound: Bound) -> Result<()> {
    let Bound { to, client } = bound;
    let lab = Lab::new()?;
    let listen = || Echo::listen(&lab.host, to, Kind::Unconnected);
    let app = listen()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let truepeer = lab.truepeer().targets_for(to).args(Framing::V2.args());
    let _truepeer = truepeer.start()?;
    let balancer = || datagrams::balancer(&lab, HOST.like(client, TRUEPEER_PORT));
    let first = balancer()?;
    datagrams::asks(&first, &app, client, b"hello")?;
    let second = balancer()?;
    datagrams::asks(&second, &app, client, b"beside the first one")?;
    drop((first, second));
    let before = counters::udp_to_nobody(&lab.edge)?;
    poll::until("the balancer to have no such socket", || {
        // More than once, as the host may have no room for one.
        app.say(to_the_app(bound), b"to a socket that is gone")?;
        Ok((counters::udp_to_nobody(&lab.edge)? > before).then_some(()))
    })?;
    let third = balancer()?;
    datagrams::asks(&third, &app, client, b"behind those that are gone")?;
    drop(app);
    datagrams::hears_that_nobody_is_there(&third, client)?;
    datagrams::asks(&third, &listen()?, client, b"to the app's next socket")?;
    leaks.saw_none()
}

/// The client, in the family of the app's socket.
fn to_the_app(Bound { to, client }: Bound) -> SocketAddr {
    match (to, client.ip()) {
        (SocketAddr::V6(_), IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), client.port()).into(),
        _ => client,
    }
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
