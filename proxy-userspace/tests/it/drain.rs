//! Services that take nobody new for a while.

use anyhow::{Result, ensure};

use crate::allowlist::{both, served_at};
use crate::lab::addr::{BALANCER, CLIENT, FRONT, FRONT_PORT};
use crate::lab::path::Path;
use crate::lab::served::{GAME, SSH, Served, Site, WEB, go_on, player, plays};
use crate::lab::{datagram, poll};
use crate::reload::by_both_paths;

by_both_paths! {
    one_service;
    all_services;
}

/// What is counted where a service is drained.
pub const COUNTED: [&str; 2] = ["drained", "datagram_drained"];

impl Site {
    /// The names of those that are drained.
    fn drained(&self) -> Result<Vec<String>> {
        let status = self.lab.shown("status")?;
        let services = status["services"].as_array().into_iter().flatten();
        let drained = services.filter(|service| service["drained"] == true);
        Ok(drained
            .map(|service| service["name"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    pub fn counted(&self, name: &str) -> Result<u64> {
        Ok(self.lab.shown("status")?["kernel"][name]
            .as_u64()
            .unwrap_or_default())
    }
}

fn one_service(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    let _truepeer = site.start(&[SSH, WEB])?;
    let mut talks = site.talks(SSH)?;
    site.asked(
        &["drain", SSH.name],
        "drained service ssh: 2 open connections and flows go on",
    )?;
    let is_drained = || {
        SSH.refuses(lab)?;
        WEB.serves(lab)?;
        ensure!(site.drained()? == [SSH.name], "{:?}", site.drained()?);
        site.asked(&["status"], "service ssh, drained: ")
    };
    is_drained()?;
    ensure!(site.counted("drained")? >= 2, "not counted");
    go_on(&mut talks)?;
    let moved = Served { port: 7003, ..WEB };
    site.reload(&[SSH, moved], &["changed web: listen"])?;
    site.reload(&[SSH, WEB], &["changed web: listen"])?;
    is_drained()?;
    let _next = site.take_over()?;
    is_drained()?;
    go_on(&mut talks)?;
    site.asked(&["undrain", SSH.name], "service ssh: serving again")?;
    SSH.serves(lab)?;
    go_on(&mut talks)
}

/// Of UDP: who is known goes on, and who isn't is dropped.
fn all_services(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let (_ssh, _web, game) = (SSH.echoes(lab)?, WEB.echoes(lab)?, GAME.players(lab)?);
    let _truepeer = site.start(&[SSH, GAME])?;
    let mut known = Vec::new();
    for (source, game) in BALANCER.both(0).into_iter().zip(&game) {
        let balancer = player(lab, source, GAME)?;
        plays(&balancer, game)?;
        known.push(balancer);
    }
    site.asked(&["drain"], "drained all services: 2 open")?;
    SSH.refuses(lab)?;
    for (balancer, game) in known.iter().zip(&game) {
        plays(balancer, game)?;
    }
    for (source, game) in BALANCER.both(0).into_iter().zip(&game) {
        let header = datagram::v2(
            CLIENT.like(source, 2000),
            FRONT.like(source, FRONT_PORT),
            &[],
        );
        let new = player(lab, source, GAME)?;
        new.send(&[&header[..], b"hello"].concat())?;
        poll::until("the datagram to be counted", || {
            let status = lab.shown("status")?;
            let daemon = &status["services"][1]["connections"]["ended"]["drained"];
            let count = site.counted("datagram_drained")? + daemon.as_u64().unwrap_or_default();
            Ok((count > 0).then_some(()))
        })?;
        game.saw_nobody()?;
    }
    // Who is known may come by another socket of his balancer's.
    for (source, game) in BALANCER.both(0).into_iter().zip(&game) {
        plays(&player(lab, source, GAME)?, game)?;
    }
    // What comes while all are drained isn't to serve yet.
    site.reload(&[SSH, GAME, WEB], &["added web"])?;
    WEB.refuses(lab)?;
    ensure!(site.drained()?.len() == 3, "{:?}", site.drained()?);
    site.asked(&["undrain"], "all services: serving again")?;
    WEB.serves(lab)?;
    SSH.serves(lab)?;
    for (source, game) in BALANCER.both(0).into_iter().zip(&game) {
        plays(&player(lab, source, GAME)?, game)?;
    }
    both(BALANCER, |source| served_at(lab, source, WEB.port))
}
