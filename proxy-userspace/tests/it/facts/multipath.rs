//! Applications that listen with Multipath TCP, and whose place others take.

use std::net::SocketAddr;

use anyhow::Result;

use super::{DIRECT, Host};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, LOOPBACK, WILDCARD};
use crate::lab::app::{App, Echo};
use crate::lab::netns::Netns;
use crate::lab::poll;
use crate::lab::stream::round_trip;

const MULTIPATH: &str = "listens with Multipath TCP";

type Listen = fn(&Netns, SocketAddr) -> Result<App>;

fn listen(lab: &Lab, listen: Listen) -> Result<Vec<App>> {
    let at = LOOPBACK.both(APP_PORT).into_iter();
    at.map(|at| listen(&lab.host, at)).collect()
}

#[test]
fn applications() -> Result<()> {
    let lab = Lab::new()?;
    let mut apps = listen(&lab, App::multipath)?;
    let host = Host::with(lab, Vec::new(), [MULTIPATH; 2])?;
    assert!(host.daemon_says([MULTIPATH; 2])?, "not from the beginning");
    for (kind, expected) in [
        (App::listen as Listen, [DIRECT; 2]),
        (App::multipath, [MULTIPATH; 2]),
    ] {
        let replace = |lab: &Lab| {
            // Dropping isn't enough: another test's child may still have it until it is a program.
            apps.iter().try_for_each(App::stop)?;
            apps = listen(lab, kind)?;
            Ok(())
        };
        host.flips(replace, expected)?;
    }
    Ok(())
}

/// One that listens at a more exact address hears from one moment to the next, and no connection
/// meets a closed port.
#[test]
fn applications_under_load() -> Result<()> {
    let lab = Lab::new()?;
    let start = |lab: &Lab, listen: Listen, at| Echo::greeting_by(listen(&lab.host, at)?);
    let any = start(&lab, App::share, WILDCARD.v6(APP_PORT))?;
    let host = Host::with(lab, vec![any], [DIRECT; 2])?;
    let mut apps = Vec::new();
    let mut open = host.under_load(|load| {
        for (port, listen, at, expected, path) in [
            (
                32_000,
                App::multipath as Listen,
                WILDCARD.v4(APP_PORT),
                [MULTIPATH, DIRECT],
                "daemon",
            ),
            (
                32_001,
                App::share,
                LOOPBACK.v4(APP_PORT),
                [DIRECT; 2],
                "direct",
            ),
        ] {
            apps.push(start(&host.lab, listen, at)?);
            // The daemon looks by itself, and shares its processors with the load.
            poll::until("the daemon to notice", || {
                Ok(host.daemon_says(expected)?.then_some(()))
            })?;
            host.goes_on(load, path, port)?;
        }
        Ok(())
    })?;
    open.iter_mut()
        .try_for_each(|it| round_trip(it, b"still there"))
}
