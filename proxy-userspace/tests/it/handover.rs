//! What is open, or on its way, while services change hands: by a reload, a drain or the next daemon.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Result, ensure};

use crate::allowlist::{refused_at, served_at};
use crate::lab::addr::{BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, WILDCARD};
use crate::lab::datagram::{self, Kind};
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::served::{GAME, SSH, Served, Site, WEB, go_on, player, plays};
use crate::lab::stream::{expect_cut, read_greeting};
use crate::reload::by_both_paths;

by_both_paths! {
    known_clients_stay_known;
    a_new_name_is_no_other_client;
    who_was_there_before_a_drain_is_served;
}

/// Of the neighbour alone.
const OTHERS: Served = Served {
    keys: "allow = [\"198.51.100.7\", \"2001:db8:e::7\"]",
    ..WEB
};

/// Each at the other one's address.
fn swapped() -> [Served; 2] {
    let [ssh, web] = [SSH.port, WEB.port];
    [
        Served { port: web, ..SSH },
        Served {
            port: ssh,
            ..OTHERS
        },
    ]
}

/// A balancer of the one service, who has come for it and waits, is none of the other's.
#[test]
fn who_waits_for_a_service_gets_to_no_other() -> Result<()> {
    let site = Site::new(Path::Daemon)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    site.write("maxconn = 1", &[SSH, OTHERS])?;
    let _truepeer = site.run(&[])?;
    let first = site.talk(BALANCER.v4(0), SSH)?;
    let mut waits = lab.edge.connect_from(BALANCER.v4(0), HOST.v4(SSH.port))?;
    site.write("maxconn = 1", &swapped())?;
    site.asks(&[], 0, &["changed ssh: listen", "changed web: listen"])?;
    refused_at(&lab.edge, BALANCER.v4(0), SSH.port)?;
    drop(first);
    is_cut(&mut waits)?;
    served_at(lab, BALANCER.v4(0), WEB.port)
}

/// Nor by the next daemon, whose file has other services at the addresses.
#[test]
fn who_waits_for_a_service_gets_to_none_of_the_next_daemon_s() -> Result<()> {
    let site = Site::new(Path::Daemon)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    site.write("maxconn = 1", &[SSH, OTHERS])?;
    let _truepeer = site.run(&[])?;
    let first = site.talk(BALANCER.v4(0), SSH)?;
    let mut waits = (0..8)
        .map(|_| lab.edge.connect_from(BALANCER.v4(0), HOST.v4(SSH.port)))
        .collect::<io::Result<Vec<_>>>()?;
    site.write("maxconn = 1", &swapped())?;
    let _next = site.take_over()?;
    waits.iter_mut().try_for_each(is_cut)?;
    drop(first);
    served_at(lab, BALANCER.v4(0), WEB.port)
}

fn is_cut(waits: &mut TcpStream) -> Result<()> {
    let client = CLIENT.v4(1000);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    // Where it has been reset, this says so, and there is nothing to be read.
    if waits.write_all(&header).is_ok() {
        let heard = waits.read(&mut [0]);
        ensure!(!matches!(heard, Ok(1..)), "it is served");
    }
    Ok(())
}

/// What an application says to a client who is known goes to his balancer, or nowhere, wherever the service's
/// application is by now, and whichever daemon serves.
fn known_clients_stay_known(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let at_host = Served {
        target: HOST,
        ..GAME
    };
    let elsewhere = Served {
        name: "elsewhere",
        port: 7009,
        target_port: 8089,
        ..GAME
    };
    let app = datagram::Echo::listen(&lab.host, WILDCARD.v4(GAME.target_port), Kind::Unconnected)?;
    let leaks = Leaks::watch(&lab.edge)?;
    let _truepeer = site.start(&[GAME, elsewhere])?;
    let balancer = player(lab, BALANCER.v4(0), GAME)?;
    plays(&balancer, &app)?;
    let client = CLIENT.v4(1000);
    let heard = || -> Result<()> {
        app.say(client, b"pushed")?;
        let (words, _) = datagram::receive(&balancer)?;
        ensure!(words == b"pushed", "{words:?}");
        Ok(())
    };
    heard()?;
    site.reload(&[at_host, elsewhere], &["changed game: target4, target6"])?;
    app.say(client, b"to a client who is another target's")?;
    plays(&balancer, &app)?;
    heard()?;
    site.reload(&[GAME, elsewhere], &["changed game: target4, target6"])?;
    plays(&balancer, &app)?;
    site.reload(&[elsewhere], &["removed game"])?;
    app.say(client, b"to a client who is nobody's")?;
    if path == Path::Direct {
        let (words, _) = datagram::receive(&balancer)?;
        ensure!(words == b"to a client who is nobody's", "{words:?}");
    }
    let _next = site.take_over()?;
    app.say(client, b"by the next daemon")?;
    if path == Path::Direct {
        let (words, _) = datagram::receive(&balancer)?;
        ensure!(words == b"by the next daemon", "{words:?}");
    }
    leaks.saw_none()
}

/// The same socket of the balancer goes on for the service of another name.
fn a_new_name_is_no_other_client(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let renamed = Served {
        name: "renamed",
        ..GAME
    };
    let [game, _] = GAME.players(lab)?;
    let _truepeer = site.start(&[GAME])?;
    let balancer = player(lab, BALANCER.v4(0), GAME)?;
    plays(&balancer, &game)?;
    site.reload(&[renamed], &["added renamed", "removed game"])?;
    plays(&balancer, &game)?;
    ensure!(site.open()? == ["renamed"], "{:?}", site.open()?);
    site.wait_forgotten(GAME)?;
    plays(&balancer, &game)
}

/// What the old daemon relays of a service that is gone has its name and its lists.
#[test]
fn the_next_daemon_knows_former_services() -> Result<()> {
    let site = Site::new(Path::Daemon)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    let _truepeer = site.start(&[SSH, WEB])?;
    let mut talks = site.talks(SSH)?;
    site.reload(&[WEB], &["removed ssh"])?;
    let _next = site.take_over()?;
    go_on(&mut talks)?;
    WEB.serves(lab)?;
    lab.deny(&["add", &CLIENT.v4.to_string(), "--service", "ssh"], &[])?;
    expect_cut(&mut talks[0])?;
    go_on(&mut talks[1..])
}

/// Whose handshake was over is served, whatever becomes of his header.
fn who_was_there_before_a_drain_is_served(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let _truepeer = site.start(&[SSH])?;
    let mut before = lab.edge.connect_from(BALANCER.v4(0), HOST.v4(SSH.port))?;
    site.asked(&["drain", "ssh"], "drained service ssh")?;
    SSH.refuses(lab)?;
    let client = CLIENT.v4(1000);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let (first, rest) = header.split_at(20);
    before.set_nodelay(true)?;
    before.write_all(first)?;
    before.write_all(rest)?;
    ensure!(read_greeting(&mut before)? == client, "another client");
    Ok(())
}

/// Also by one that is killed.
#[test]
fn the_next_daemon_is_drained_too() -> Result<()> {
    let site = Site::new(Path::Direct)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    let truepeer = site.start(&[SSH, WEB])?;
    site.asked(&["drain", "ssh"], "drained service ssh")?;
    drop(truepeer);
    let _next = site.start(&[SSH, WEB])?;
    SSH.refuses(lab)?;
    WEB.serves(lab)?;
    site.asked(&["undrain", "ssh"], "serving again")?;
    SSH.serves(lab)
}
