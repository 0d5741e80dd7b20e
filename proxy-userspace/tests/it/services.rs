//! Several services of one daemon, by a file.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::allowlist::{both, refused_at, served_at};
use crate::lab::Lab;
use crate::lab::addr::{BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, NEIGHBOUR};
use crate::lab::app::Echo;
use crate::lab::datagram::{self, Kind};

/// By name: where balancers connect to, and where the application is.
const SSH: (&str, u16, u16) = ("ssh", 7000, 8080);
const WEB: (&str, u16, u16) = ("web", 7001, 8081);
const GAME: (&str, u16, u16) = ("game", 7000, 8080);

/// A file with these services, in this order.
fn file(lab: &Lab, directory: &Path, services: &[(&str, u16, u16)]) -> Result<String> {
    let [v4, v6] = [BALANCER.v4, BALANCER.v6];
    let mut text = format!(
        "instance = {:?}\norphan_timeout = \"0s\"\n\n[defaults]\nallow = [\"{v4}\", \"{v6}\"]\n",
        lab.instance()
    );
    for &(name, port, target) in services {
        let protocol = if name == GAME.0 { "udp" } else { "tcp" };
        let listen = HOST.both(port).map(|at| format!("\"{at}\""));
        let [target4, target6] = LOOPBACK.both(target);
        text += &format!(
            "\n[[service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = [{}]\n\
             target4 = \"{target4}\"\ntarget6 = \"{target6}\"\n",
            listen.join(", ")
        );
    }
    let path = directory.join("truepeer.toml");
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// TCP and UDP at one port, and another one.
#[test]
fn each_has_its_own_application_and_its_own_lists() -> Result<()> {
    let lab = Lab::new()?;
    let directory = TempDir::new()?;
    let greeting = |at| Echo::greeting(&lab.host, at);
    let _ssh = LOOPBACK.both(SSH.2).map(greeting);
    let _web = LOOPBACK.both(WEB.2).map(greeting);
    let games = LOOPBACK
        .both(GAME.2)
        .map(|at| datagram::Echo::listen(&lab.host, at, Kind::Unconnected));
    let games = games.into_iter().collect::<Result<Vec<_>>>()?;
    let written = file(&lab, directory.path(), &[SSH, GAME, WEB])?;
    lab.truepeer_raw(&["check", "--config-only", "-c", &written])?
        .expect(0, &["ok: 3 services"])?;
    let mut truepeer = lab.truepeer_daemon(&["run", "-c", &written])?;
    for port in [SSH.1, WEB.1] {
        both(BALANCER, |source| served_at(&lab, source, port))?;
        both(NEIGHBOUR, |source| refused_at(&lab.edge, source, port))?;
    }
    for (source, game) in BALANCER.both(0).into_iter().zip(&games) {
        plays(&lab, source, game)?;
    }
    let status = lab.shown("status")?;
    let names = status["services"].as_array().map(|all| {
        let names = all.iter().map(|service| service["name"].to_string());
        names.collect::<Vec<_>>().join(" ")
    });
    ensure!(
        names.as_deref() == Some(r#""ssh" "game" "web""#),
        "{names:?}"
    );
    // A list is one service's, wherever that stands in the file.
    let neighbours = [NEIGHBOUR.v4, NEIGHBOUR.v6].map(|it| it.to_string());
    let [v4, v6] = &neighbours;
    lab.allow(&["add", v4, v6, "--service", WEB.0])?
        .expect(0, &["added"])?;
    let only_web = || {
        both(NEIGHBOUR, |source| served_at(&lab, source, WEB.1))?;
        both(NEIGHBOUR, |source| refused_at(&lab.edge, source, SSH.1))
    };
    only_web()?;
    lab.allow(&["list", "--service", "nginx"])?
        .expect(1, &["has no service nginx", "game", "ssh", "web"])?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    let written = file(&lab, directory.path(), &[WEB, SSH])?;
    let _truepeer = lab.truepeer_daemon(&["run", "-c", &written])?;
    only_web()?;
    lab.allow(&["list", "--service", GAME.0])?
        .expect(1, &["has no service game"])
}

fn plays(lab: &Lab, source: SocketAddr, game: &datagram::Echo) -> Result<()> {
    let balancer = datagram::socket(&lab.edge, source)?;
    balancer.connect(HOST.like(source, GAME.1))?;
    let client = CLIENT.like(source, 1000);
    let header = datagram::v2(client, FRONT.like(client, FRONT_PORT), &[]);
    balancer.send(&[&header[..], b"hello"].concat())?;
    let (seen, words) = game.next()?;
    ensure!(seen == client && words == b"hello", "the game sees {seen}");
    let (answer, _) = datagram::receive(&balancer)?;
    ensure!(answer == b"hello", "an answer of {} bytes", answer.len());
    Ok(())
}

#[test]
fn a_wrong_file_is_told_with_the_place() -> Result<()> {
    let lab = Lab::new()?;
    let directory = TempDir::new()?;
    let path = directory.path().join("wrong.toml");
    fs::write(
        &path,
        "[[service]]\nname = \"ssh\"\nlisten = [\"0.0.0.0\"]\n",
    )?;
    let path = path.to_string_lossy();
    for verb in [&["run"][..], &["check"], &["check", "--config-only"]] {
        let said = lab.truepeer_raw(&[verb, &["-c", &path]].concat())?;
        said.expect(
            2,
            &["wrong.toml:3:11: listen \"0.0.0.0\": there is no port"],
        )?;
    }
    let said = lab.truepeer_raw(&["check", "-c", &path, "--allow", "10.0.0.1"])?;
    said.expect(2, &["cannot be used with"])
}
