//! Addresses that no client can have never reach the app.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, LOOPBACK, WILDCARD};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::stream::expect_reset;

fn claim(client: &str, version: Version) -> Result<Vec<u8>> {
    let client = SocketAddr::new(client.parse()?, 41000);
    Ok(version.header(client, FRONT.like(client, FRONT_PORT)))
}

#[test]
fn impossible_clients_are_reset_and_reach_nobody() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    for client in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        // the host's network has this for its broadcasts
        "198.51.100.255",
        "::1",
        "::",
        "ff02::1",
        // what IPv4 refuses stays refused in disguise
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "::ffff:198.51.100.255",
    ] {
        for version in Version::BOTH {
            let case = || format!("{client} over {version:?}");
            let mut balancer = lab.balancer(&claim(client, version)?)?;
            expect_reset(&mut balancer).with_context(case)?;
            app.saw_nobody().with_context(case)?;
        }
    }
    // and a client that can exist is served
    let _balancer = lab.balancer(&claim("203.0.113.9", Version::V2)?)?;
    assert_eq!(app.accept()?.1, CLIENT.v4(41000));
    Ok(())
}

#[test]
fn truepeers_own_steer_address_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let _balancer = lab.balancer(&claim("203.0.113.9", Version::V2)?)?;
    let steer = app.accept()?.0.local_addr()?.ip().to_string();
    expect_reset(&mut lab.balancer(&claim(&steer, Version::V2)?)?)?;
    app.saw_nobody()
}

/// It is connected from as it is, which can't be from the client's own port.
#[test]
fn an_address_that_the_host_gets_later_is_not_spoofed() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    lab.host.ip("address add 192.0.2.77/32 dev edge")?;
    let client: SocketAddr = "192.0.2.77:41000".parse()?;
    // Whatever watches addresses may take a moment; one that is spoofed meanwhile hears nothing.
    let mut balancers = Vec::new();
    poll::until("192.0.2.77 to be served as the host's", || {
        balancers.push(lab.balancer(&claim("192.0.2.77", Version::V2)?)?);
        let Some((_, seen)) = app.accept_now()? else {
            return Ok(None);
        };
        ensure!(seen.ip() == client.ip(), "seen was {seen}");
        Ok((seen.port() != client.port()).then_some(()))
    })
}

#[test]
fn the_log_names_the_balancer_once_per_burst() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().start()?;
    let lines_before = truepeer.log().len();
    for _ in 0..50 {
        expect_reset(&mut lab.balancer(&claim("127.0.0.1", Version::V2)?)?)?;
    }
    app.saw_nobody()?;
    truepeer.wait_line("198.51.100.1")?;
    let log = truepeer.log();
    let named = log[lines_before..]
        .iter()
        .filter(|line| line.contains("198.51.100.1"));
    assert_eq!(named.count(), 1, "{log:#?}");
    Ok(())
}

/// Nothing that a balancer sends gets into the log as it is.
#[test]
fn the_log_shows_no_raw_header() -> Result<()> {
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(["-v"]).start()?;
    let bad = b"PROXY TCP4 \x1b[31mINJECTED\x07 x 1 2\r\n";
    expect_reset(&mut lab.balancer(bad)?)?;
    truepeer.wait_line("198.51.100.1")?;
    let log = truepeer.log().join("\n");
    ensure!(!log.contains("INJECTED") && !log.contains('\x07'), "{log}");
    Ok(())
}
