//! Services that come, go and change while others are served.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::allowlist::{both, refused_at, served_at};
use crate::lab::addr::{BALANCER, CLIENT, HOST, NEIGHBOUR, Pair};
use crate::lab::app::Echo;
use crate::lab::path::Path;
use crate::lab::proc::{Proc, entries};
use crate::lab::scale::scaled;
use crate::lab::served::{GAME, SSH, Served, Site, WEB, go_on, player, plays};
use crate::lab::stream::{expect_cut, read_greeting, round_trip};
use crate::lab::{Lab, datagram, poll};
use crate::steering::elsewhere::{BEHIND, container_behind};

/// A row for each path.
macro_rules! by_both_paths {
    ($($name:ident;)*) => { $(
        mod $name {
            use crate::lab::path::Path;
            #[test] fn direct() -> anyhow::Result<()> { super::$name(Path::Direct) }
            #[test] fn daemon() -> anyhow::Result<()> { super::$name(Path::Daemon) }
        }
    )* };
}
pub(crate) use by_both_paths;

by_both_paths! {
    services_come_and_go;
    a_service_changes;
    a_target_moves_beyond_the_host;
    datagrams_come_and_go;
}

impl Served {
    pub fn serves(self, lab: &Lab) -> Result<()> {
        both(BALANCER, |source| served_at(lab, source, self.port))
    }

    pub fn refuses(self, lab: &Lab) -> Result<()> {
        both(BALANCER, |source| refused_at(&lab.edge, source, self.port))
    }
}

fn services_come_and_go(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    let mut truepeer = site.start(&[SSH])?;
    let mut talks = site.talks(SSH)?;
    WEB.refuses(lab)?;

    site.write("", &[SSH, WEB])?;
    site.asks(
        &["--dry-run"],
        0,
        &["would reload: 4 prefixes", "added web: tcp at"],
    )?;
    WEB.refuses(lab)?;
    site.asks(&[], 0, &["reloaded: 4 prefixes", "added web: tcp at"])?;
    WEB.serves(lab)?;
    SSH.serves(lab)?;
    both(NEIGHBOUR, |source| refused_at(&lab.edge, source, WEB.port))?;
    go_on(&mut talks)?;

    // What a service has open goes on without it, under its name, and under its lists.
    site.reload(&[WEB], &["removed ssh"])?;
    SSH.refuses(lab)?;
    go_on(&mut talks)?;
    ensure!(site.open()? == ["ssh", "ssh"], "{:?}", site.open()?);
    let denied = CLIENT.v4.to_string();
    lab.deny(&["add", &denied, "--service", "ssh"], &[])?;
    expect_cut(&mut talks[0])?;
    go_on(&mut talks[1..])?;
    drop(talks);
    site.wait_forgotten(SSH)?;

    // Its address is anybody's now, and everybody gets there.
    let other = Echo::greeting(&lab.host, HOST.v4(SSH.port))?;
    let mut outsider = lab.edge.connect_from(NEIGHBOUR.v4(0), HOST.v4(SSH.port))?;
    ensure!(
        read_greeting(&mut outsider)?.ip() == NEIGHBOUR.v4,
        "not as itself"
    );
    site.write("", &[SSH, WEB])?;
    site.asks(&[], 1, &["all stays as it was", "7000"])?;
    round_trip(&mut outsider, b"still there")?;
    WEB.serves(lab)?;
    drop((other, outsider));
    ensure!(truepeer.is_running()?, "it has ended");
    Ok(())
}

/// Another target, at a port that another service's application has as well, so that it needs a steer address of its
/// own; and headers of one version alone.
fn a_service_changes(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let at_host = Served {
        target: HOST,
        target_port: SSH.target_port,
        ..WEB
    };
    let (_ssh, _web, _other) = (SSH.echoes(lab)?, WEB.echoes(lab)?, at_host.echoes(lab)?);
    let _truepeer = site.start(&[SSH, WEB])?;
    let (ssh, web) = (site.talks(SSH)?, site.talks(WEB)?);
    let mut talks: Vec<_> = ssh.into_iter().chain(web).collect();
    site.reload(&[at_host, SSH], &["changed web: target4, target6"])?;
    at_host.serves(lab)?;
    SSH.serves(lab)?;
    go_on(&mut talks)?;
    let shown = lab.shown("connections")?;
    let targets = shown.as_array().context("an array")?.iter();
    let at_former =
        targets.filter(|one| one["target"] == WEB.target.v4(WEB.target_port).to_string());
    ensure!(at_former.count() == 1, "{shown:#}");
    let v1 = Served {
        keys: "header = \"v1\"",
        ..at_host
    };
    site.reload(&[v1, SSH], &["changed web: header"])?;
    ensure!(
        served_at(lab, BALANCER.v4(0), WEB.port).is_err(),
        "v2 is taken"
    );
    go_on(&mut talks)?;
    site.reload(&[SSH, WEB], &["changed web: target4, target6, header"])?;
    WEB.serves(lab)?;
    go_on(&mut talks)
}

/// Where no target has been beyond the host so far.
fn a_target_moves_beyond_the_host(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let container = container_behind(lab)?;
    let [v4, v6] = BEHIND.map(str::parse::<IpAddr>);
    let beyond = Served {
        target: Pair { v4: v4?, v6: v6? },
        ..WEB
    };
    let listen = |at| Echo::greeting(&container, at);
    let [at4, at6] = beyond.target.both(beyond.target_port);
    let (_web, _beyond) = (WEB.echoes(lab)?, [listen(at4)?, listen(at6)?]);
    let _truepeer = site.start(&[WEB])?;
    let mut talks = site.talks(WEB)?;
    site.reload(&[beyond], &["changed web: target4, target6"])?;
    beyond.serves(lab)?;
    let mut others = site.talks(beyond)?;
    go_on(&mut talks)?;
    site.reload(&[WEB], &["changed web: target4, target6"])?;
    WEB.serves(lab)?;
    go_on(&mut others)?;
    go_on(&mut talks)
}

fn datagrams_come_and_go(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let second = Served {
        name: "second",
        port: 7002,
        target_port: 8082,
        ..GAME
    };
    let moved = Served {
        target_port: 8083,
        ..GAME
    };
    let (game, next, other) = (
        GAME.players(lab)?,
        second.players(lab)?,
        moved.players(lab)?,
    );
    let _truepeer = site.start(&[GAME])?;
    let apps = game.iter().zip(&next).zip(&other);
    for (source, ((game, next), other)) in BALANCER.both(0).into_iter().zip(apps) {
        let balancer = player(lab, source, GAME)?;
        plays(&balancer, game)?;
        site.reload(&[GAME, second], &["added second: udp at"])?;
        plays(&player(lab, source, second)?, next)?;
        plays(&balancer, game)?;
        site.reload(&[moved, second], &["changed game: target4, target6"])?;
        plays(&balancer, other)?;
        site.reload(&[moved], &["removed second"])?;
        let gone = player(lab, source, second)?;
        gone.send(b"hello")?;
        let answer = datagram::receive(&gone);
        let refused = answer.expect_err("an answer");
        let kind = refused.downcast_ref::<io::Error>().map(io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{refused:#}");
        plays(&balancer, other)?;
        site.reload(&[GAME], &["changed game"])?;
        plays(&balancer, game)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_reloaded_changes_nothing() -> Result<()> {
    let site = Site::new(Path::Direct)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let truepeer = site.start(&[SSH])?;
    let mut talks = site.talks(SSH)?;
    ensure!(
        lab.shown("status")?["last_reload"].is_null(),
        "there was one"
    );
    let refused = |keys: &str, services: &[Served], says: &[&str]| {
        site.write(keys, services)?;
        let says = [&["all stays as it was"], says].concat();
        site.asks(&[], 1, &says)?;
        let last = &lab.shown("status")?["last_reload"]["outcome"]["refused"];
        let last = last.as_str().context("a reason")?;
        ensure!(says[1..].iter().all(|it| last.contains(it)), "{last}");
        SSH.serves(lab)
    };
    refused(
        "workers = 3",
        &[SSH],
        &["workers: that can't change", "run --take-over"],
    )?;
    refused("", &[SSH, GAME], &["services of UDP: ", "run --take-over"])?;
    refused(
        "colour = 3",
        &[SSH],
        &["truepeer.toml:4:1: there is no key colour"],
    )?;
    let unlisted = Served {
        keys: "allow_files = [\"/nowhere\"]",
        ..SSH
    };
    refused("", &[unlisted], &["/nowhere"])?;
    let at_itself = Served {
        target_port: WEB.port,
        target: HOST,
        ..WEB
    };
    refused("", &[SSH, at_itself], &["443"])?;
    site.write("workers = 3", &[SSH])?;
    truepeer.signal(Signal::HUP)?;
    truepeer.wait_line("not reloaded, all stays as it was: workers")?;
    go_on(&mut talks)?;
    site.reload(&[SSH], &["reloaded: 2 prefixes"])?;
    lab.truepeer_raw(&["status", "--instance", lab.instance()])?
        .expect(0, &["last reload", "done, 0 services changed"])
}

/// A file that says nothing holds up neither what is served nor the end.
#[test]
fn a_file_that_never_ends_holds_up_nobody() -> Result<()> {
    let site = Site::new(Path::Direct)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let mut truepeer = site.start(&[SSH])?;
    fs::remove_file(&site.file)?;
    let made = Command::new("mkfifo").arg(&site.file).status()?;
    ensure!(made.success(), "no pipe");
    truepeer.signal(Signal::HUP)?;
    // It is opened for reading by then.
    let writer = fs::OpenOptions::new().write(true).open(&site.file)?;
    SSH.serves(lab)?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    drop(writer);
    Ok(())
}

/// Nothing of many others stays, and who is served hears nothing of them.
#[test]
fn many_reloads_leave_nothing_and_cut_nothing() -> Result<()> {
    let count = scaled(40, 1_000);
    let site = Site::new(Path::Direct)?;
    let lab = &site.lab;
    let (_ssh, _web) = (SSH.echoes(lab)?, WEB.echoes(lab)?);
    let truepeer = site.start(&[SSH, GAME])?;
    let threads = entries(truepeer.pid(), "task")?;
    let mut talks = site.talks(SSH)?;
    let elsewhere = Served { port: 7005, ..WEB };
    let mut before = None;
    for round in 1..=count {
        site.reload(&[SSH, WEB, GAME], &["reloaded"])?;
        served_at(lab, BALANCER.v4(0), SSH.port)?;
        site.reload(&[SSH, GAME, elsewhere], &["reloaded"])?;
        served_at(lab, BALANCER.v6(0), SSH.port)?;
        go_on(&mut talks)?;
        if round == 10 {
            before = Some(held(&truepeer, threads)?);
        }
    }
    let (before, after) = (
        before.context("over ten rounds")?,
        held(&truepeer, threads)?,
    );
    let memory = [before.memory, after.memory];
    ensure!(
        before
            == Held {
                memory: before.memory,
                ..after.clone()
            },
        "{before:?}, and then {after:?}"
    );
    // What lies scattered for a moment more or less.
    ensure!(memory[1] < memory[0] * 6 / 5, "{memory:?} bytes");
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    maps: BTreeSet<u64>,
    programs: BTreeSet<u64>,
    memory: u64,
}

/// Once those threads have ended that looked at the host for another configuration.
fn held(truepeer: &Proc, threads: usize) -> Result<Held> {
    poll::until("threads to end", || {
        Ok((entries(truepeer.pid(), "task")? == threads).then_some(()))
    })?;
    Ok(Held {
        files: entries(truepeer.pid(), "fd")?,
        maps: truepeer.fd_info("map_id")?,
        programs: truepeer.fd_info("prog_id")?,
        memory: truepeer.memory()?,
    })
}
