//! An app that dies and comes back: while nobody listens, balancers are refused, as by a host without
//! truepeer, so that their checks of the port see it.

use std::io::{self, ErrorKind};

use anyhow::{Result, ensure};

use super::{CLIENT_PORT, Plan, Site, paths};
use crate::lab::poll;

paths! {
    refused_while_nobody_listens;
    never_there_at_the_start;
    open_connections_go_on;
}

fn refused_while_nobody_listens(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for port in (CLIENT_PORT..).take(3) {
        site.warm(port)?;
        site.app.stop()?;
        wait_refused(&site)?;
        for _ in 0..8 {
            let kind = attempt(&site).map_err(|error| error.kind());
            ensure!(matches!(kind, Err(ErrorKind::ConnectionRefused)));
        }
        site.app.resume()?;
        wait_accepted(&site)?;
    }
    site.warm(CLIENT_PORT + 3).map(drop)
}

fn never_there_at_the_start(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    site.kill()?;
    site.lab.no_device_left()?;
    site.app.stop()?;
    site.truepeer = plan.truepeer(&site.lab).start()?;
    wait_refused(&site)?;
    site.app.resume()?;
    wait_accepted(&site)?;
    site.warm(CLIENT_PORT).map(drop)
}

fn open_connections_go_on(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    site.app.stop()?;
    wait_refused(&site)?;
    talk.ping_pong(16, 1000)?;
    site.app.resume()?;
    wait_accepted(&site)?;
    talk.ping_pong(16, 1000)?;
    talk.bulk()
}

/// A connect that sends nothing, as a plain TCP check does.
fn attempt(site: &Site) -> io::Result<()> {
    let netns = site.balancers_netns();
    netns
        .connect_from(site.balancer(), site.service())
        .map(drop)
}

fn wait_refused(site: &Site) -> Result<()> {
    poll::until("connects to be refused", || {
        let error = attempt(site).err().map(|error| error.kind());
        ensure!(matches!(error, None | Some(ErrorKind::ConnectionRefused)));
        Ok(error.map(drop))
    })
}

fn wait_accepted(site: &Site) -> Result<()> {
    poll::until("connects to be accepted", || {
        let error = attempt(site).err().map(|error| error.kind());
        ensure!(matches!(error, None | Some(ErrorKind::ConnectionRefused)));
        Ok(error.is_none().then_some(()))
    })
}
