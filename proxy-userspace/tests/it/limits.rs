//! Limits of each client that change while their connections are there.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::lab::addr::{BALANCER, CLIENT, FRONT, FRONT_PORT, HOST};
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::served::{SSH, Served, Site, go_on};
use crate::lab::stream::expect_reset;
use crate::reload::by_both_paths;

by_both_paths! {
    a_reload_counts_those_there;
    a_reload_raises_and_lowers;
}

const fn limited(keys: &'static str) -> Served {
    Served { keys, ..SSH }
}

const ONE: Served = limited("maxconn_per_client = 1");
const TWO: Served = limited("maxconn_per_client = 2");
const ONE_OF_THE_BALANCER: Served = limited("maxconn_per_balancer = 1");

fn refused(site: &Site, source: SocketAddr, port: u16) -> Result<()> {
    let mut balancer = site
        .lab
        .edge
        .connect_from(source, HOST.like(source, SSH.port))?;
    let client = CLIENT.like(source, port);
    balancer.write_all(&Version::V2.header(client, FRONT.like(client, FRONT_PORT)))?;
    expect_reset(&mut balancer)
}

fn both_are_refused(site: &Site, reason: &str) -> Result<()> {
    let ended = || site.lab.ended_as(reason);
    let before = ended()?;
    for source in BALANCER.both(0) {
        refused(site, source, 20_900)?;
    }
    poll::until("both to be counted", || {
        Ok((ended()? == before + 2).then_some(()))
    })
    .context(reason.to_owned())
}

fn a_reload_counts_those_there(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let _apps = SSH.echoes(&site.lab)?;
    let _truepeer = site.start(&[SSH])?;
    let mut talks = site.talks(SSH)?;
    let changed = "changed ssh: maxconn_per_client";
    site.reload(&[ONE], &[changed])?;
    both_are_refused(&site, "client_maxconn")?;
    site.reload(
        &[ONE_OF_THE_BALANCER],
        &["changed ssh: maxconn_per_balancer, maxconn_per_client"],
    )?;
    both_are_refused(&site, "balancer_maxconn")?;
    go_on(&mut talks)?;
    // Once they are over, all of it is free.
    drop(talks);
    wait_closed(&site)?;
    let mut others = site.talks(ONE_OF_THE_BALANCER)?;
    both_are_refused(&site, "balancer_maxconn")?;
    go_on(&mut others)
}

fn wait_closed(site: &Site) -> Result<()> {
    poll::until("nothing to be open", || {
        Ok(site.open()?.is_empty().then_some(()))
    })
}

fn a_reload_raises_and_lowers(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let _apps = SSH.echoes(&site.lab)?;
    let _truepeer = site.start(&[ONE])?;
    let mut talks = Vec::from(site.talks(ONE)?);
    both_are_refused(&site, "client_maxconn")?;
    site.reload(&[TWO], &["changed ssh: maxconn_per_client"])?;
    talks.extend(site.talks(TWO)?);
    both_are_refused(&site, "client_maxconn")?;
    site.reload(&[ONE], &["changed ssh: maxconn_per_client"])?;
    both_are_refused(&site, "client_maxconn")?;
    go_on(&mut talks)?;
    site.reload(&[SSH], &["changed ssh: maxconn_per_client"])?;
    talks.extend(site.talks(SSH)?);
    go_on(&mut talks)?;
    ensure!(site.open()?.len() == 6, "{:?}", site.open()?);
    // Those that were let in meanwhile count.
    site.reload(&[TWO], &["changed ssh: maxconn_per_client"])?;
    talks.truncate(4);
    poll::until("two to be over", || {
        Ok((site.open()?.len() == 4).then_some(()))
    })?;
    both_are_refused(&site, "client_maxconn")
}
