//! Daemons that die, hang or are replaced, and keepers that do: open direct connections go on as long as
//! anybody may come who continues them, and else every end hears of it.

use std::io::ErrorKind;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT,
};
use crate::lab::app::{App, Echo};
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::{Proc, entries};
use crate::lab::stream::{expect_reset, round_trip};
use crate::lab::talk::{Side, Talk};
use crate::lab::truepeer::{Truepeer, keeper_of};
use crate::paths::closes::half_close;
use crate::steering::elsewhere::{BEHIND, container_behind};
use crate::steering::site::nft;

/// Of `--orphan-timeout`.
pub const DEFAULT: &str = "10s";
/// Of each family.
const COUNT: u16 = 100;
pub const FIRST_PORT: u16 = 20_300;
/// How many at a time have something to say.
const TALKERS: usize = 4;

pub struct Site {
    pub open: Vec<TcpStream>,
    pub daemon: Proc,
    truepeer: Truepeer,
    _apps: [Echo; 2],
    pub lab: Lab,
}

impl Site {
    /// With its connections open, and all of them direct.
    pub fn new(orphan_timeout: &'static str) -> Result<Self> {
        let lab = Lab::new()?;
        let [v4, v6] = LOOPBACK.both(APP_PORT);
        let apps = [Echo::start(&lab.host, v4)?, Echo::start(&lab.host, v6)?];
        let truepeer = lab.truepeer().args(["--workers", "2"]);
        let truepeer = truepeer.orphan_timeout(orphan_timeout);
        let daemon = truepeer.start()?;
        let mut site = Self {
            lab,
            _apps: apps,
            truepeer,
            daemon,
            open: Vec::new(),
        };
        for port in FIRST_PORT..FIRST_PORT + COUNT {
            for client in CLIENT.both(port) {
                let mut stream = site.connect(client)?;
                round_trip(&mut stream, b"hello")?;
                site.open.push(stream);
            }
        }
        ensure!(site.direct()? == site.open.len(), "not all are direct");
        Ok(site)
    }

    fn connect(&self, client: SocketAddr) -> Result<TcpStream> {
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        let service = HOST.like(client, TRUEPEER_PORT);
        self.lab.balancer_to(service, &header)
    }

    /// How many connections the daemon lists as direct.
    pub fn direct(&self) -> Result<usize> {
        let shown = self.lab.shown("connections")?;
        let all = shown.as_array().context("an array")?;
        Ok(all.iter().filter(|one| one["path"] == "direct").count())
    }

    /// Waits until `status` has counted so many as `how`, and so many as open.
    fn wait_counts(&self, how: &str, count: usize, open: usize) -> Result<()> {
        let mut counts = Value::Null;
        poll::until("the connections to be counted", || {
            counts = self.lab.shown("status")?["connections"].take();
            Ok((counts[how] == count && counts["open"] == open).then_some(()))
        })
        .with_context(|| format!("{count} {how} and {open} open, not {counts}"))
    }

    fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Each of them says something again and again while `work` is done, and afterwards once more.
    fn under_load(&mut self, work: impl FnOnce(&Lab, &Truepeer) -> Result<()>) -> Result<()> {
        let (lab, truepeer) = (&self.lab, &self.truepeer);
        let done = &AtomicBool::new(false);
        let rounds = &AtomicUsize::new(0);
        let share = self.open.len().div_ceil(TALKERS);
        thread::scope(|scope| {
            let talkers: Vec<ScopedJoinHandle<'_, Result<()>>> = self
                .open
                .chunks_mut(share)
                .map(|mine| scope.spawn(move || talk(mine, done, rounds)))
                .collect();
            let worked = wait_rounds(rounds).and_then(|()| work(lab, truepeer));
            done.store(true, Ordering::Relaxed);
            for talker in talkers {
                talker.join().expect("no panic on the way")?;
            }
            worked
        })
    }

    /// In two pieces, a header is the daemon's to read.
    pub fn through_the_daemon(&self, port: u16) -> Result<TcpStream> {
        let client = CLIENT.v4(port);
        let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
        let mut relayed = self.lab.balancer(&header[..7])?;
        std::io::Write::write_all(&mut relayed, &header[7..])?;
        round_trip(&mut relayed, b"through the daemon")?;
        Ok(relayed)
    }

    /// Another daemon takes over while others come, whom nobody refuses: how many. Returns the one before.
    pub fn take_over(&mut self) -> Result<(Proc, usize)> {
        let mut next = None;
        let mut came = 0;
        self.under_load(|lab, truepeer| {
            let taking = &AtomicBool::new(true);
            thread::scope(|scope| {
                let comers = scope.spawn(move || newcomers(lab, taking));
                next = Some(truepeer.clone().args(["--take-over"]).start()?);
                taking.store(false, Ordering::Relaxed);
                came = comers.join().expect("no panic on the way")?;
                Ok(())
            })
        })?;
        let next = next.context("it was started")?;
        Ok((mem::replace(&mut self.daemon, next), came))
    }

    /// Another daemon is started after kill -9.
    pub fn follow_a_killed_one(&mut self) -> Result<()> {
        let pid = self.daemon.pid();
        let mut next = None;
        self.under_load(|_, truepeer| {
            kill_process(pid, Signal::KILL)?;
            next = Some(truepeer.start()?);
            Ok(())
        })?;
        self.daemon = next.context("it was started")?;
        Ok(())
    }

    /// An orderly end, with the connections closed before.
    pub fn end(self) -> Result<()> {
        let Self {
            lab,
            open,
            mut daemon,
            ..
        } = self;
        drop(open);
        daemon.signal(Signal::TERM)?;
        ensure!(daemon.wait_exit()?.code() == Some(0), "{:?}", daemon.log());
        lab.no_device_left()
    }
}

fn talk(mine: &mut [TcpStream], done: &AtomicBool, rounds: &AtomicUsize) -> Result<()> {
    loop {
        let last = done.load(Ordering::Relaxed);
        for stream in &mut *mine {
            round_trip(stream, b"and so on").with_context(|| format!("{stream:?}"))?;
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        if last {
            return Ok(());
        }
    }
}

fn wait_rounds(rounds: &AtomicUsize) -> Result<()> {
    let before = rounds.load(Ordering::Relaxed);
    poll::until("all to have said something", || {
        let more = rounds.load(Ordering::Relaxed) >= before + 2 * TALKERS;
        Ok(more.then_some(()))
    })
}

#[test]
fn a_start_after_kill_9_cuts_nothing() -> Result<()> {
    let mut site = Site::new(DEFAULT)?;
    let count = site.open.len();
    site.wait_counts("accepted", count, count)?;
    let capture = Leaks::watch(&site.lab.edge)?;
    site.follow_a_killed_one()?;
    ensure!(site.direct()? == count, "some are forgotten");
    site.wait_counts("taken_over", count, count)?;
    site.open.clear();
    site.wait_counts("taken_over", count, 0)?;
    for client in CLIENT.both(FIRST_PORT + COUNT) {
        round_trip(&mut site.connect(client)?, b"new")?;
    }
    capture.saw_none()?;
    site.end()
}

#[test]
fn a_take_over_cuts_and_refuses_nothing() -> Result<()> {
    let mut site = Site::new(DEFAULT)?;
    let capture = Leaks::watch(&site.lab.edge)?;
    let mut relayed = site.through_the_daemon(FIRST_PORT - 1)?;
    let (mut old, came) = site.take_over()?;
    ensure!(came > 10, "{came} connections are too few to tell");
    old.wait_line("replaced by another daemon")?;
    round_trip(&mut relayed, b"still through the old one")?;
    drop(relayed);
    ensure!(old.wait_exit()?.code() == Some(0));
    ensure!(site.direct()? >= site.open.len(), "some are forgotten");
    capture.saw_none()?;
    site.end()
}

/// Connections that come, say something and go.
fn newcomers(lab: &Lab, going: &AtomicBool) -> Result<usize> {
    let mut came = 0;
    let ports = (FIRST_PORT + COUNT + 1..u16::MAX).take_while(|_| going.load(Ordering::Relaxed));
    for port in ports {
        for client in CLIENT.both(port) {
            let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
            let mut stream = lab.balancer_to(HOST.like(client, TRUEPEER_PORT), &header)?;
            round_trip(&mut stream, b"new").with_context(|| format!("{client}"))?;
            came += 1;
        }
    }
    Ok(came)
}

#[test]
fn if_nobody_comes_every_end_hears_a_reset() -> Result<()> {
    let mut site = Site::new("500ms")?;
    let capture = Leaks::watch(&site.lab.edge)?;
    site.kill()?;
    for stream in &mut site.open {
        expect_reset(stream)?;
    }
    for service in HOST.both(TRUEPEER_PORT) {
        let refused = site
            .lab
            .edge
            .connect_from(BALANCER.like(service, 0), service);
        let refused = refused.err().context("nobody is there")?;
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    site.lab.no_device_left()?;
    site.lab.no_socket_left()?;
    capture.saw_none()
}

#[test]
fn a_keeper_that_dies_is_followed_by_another() -> Result<()> {
    let mut site = Site::new(DEFAULT)?;
    let keeper = keeper_of(&site.daemon)?;
    let held = entries(keeper, "fd")?;
    kill_process(keeper, Signal::KILL)?;
    site.daemon.wait_line("starting another")?;
    poll::until("another keeper to hold as much", || {
        let other = keeper_of(&site.daemon)?;
        Ok((other != keeper && entries(other, "fd")? >= held).then_some(()))
    })?;
    site.kill()?;
    site.daemon = site.truepeer.start()?;
    site.under_load(|_, _| Ok(()))?;
    site.end()
}

/// As of one that hangs: it holds all that it has, and answers nobody.
#[test]
fn while_a_daemon_is_stopped_open_ones_go_on_and_new_ones_are_refused() -> Result<()> {
    let mut site = Site::new(DEFAULT)?;
    let capture = Leaks::watch(&site.lab.edge)?;
    let pid = site.daemon.pid();
    site.under_load(|lab, _| {
        kill_process(pid, Signal::STOP)?;
        for service in HOST.both(TRUEPEER_PORT) {
            poll::until("a stopped daemon's SYNs to be refused", || {
                refuses(lab, service).map(|refuses| refuses.then_some(()))
            })?;
        }
        kill_process(pid, Signal::CONT)?;
        for service in HOST.both(TRUEPEER_PORT) {
            poll::until("SYNs to be let in again", || {
                refuses(lab, service).map(|refuses| (!refuses).then_some(()))
            })?;
        }
        Ok(())
    })?;
    for client in CLIENT.both(FIRST_PORT + COUNT) {
        round_trip(&mut site.connect(client)?, b"new")?;
    }
    ensure!(site.direct()? >= site.open.len(), "some are forgotten");
    capture.saw_none()?;
    let Site {
        open, mut daemon, ..
    } = site;
    drop(open);
    daemon.signal(Signal::TERM)?;
    ensure!(daemon.wait_exit()?.code() == Some(0), "{:?}", daemon.log());
    Ok(())
}

fn refuses(lab: &Lab, service: SocketAddr) -> Result<bool> {
    match lab.edge.connect_from(BALANCER.like(service, 0), service) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn takers_that_die_do_no_harm() -> Result<()> {
    let mut site = Site::new(DEFAULT)?;
    site.kill()?;
    let mut next = None;
    site.under_load(|_, truepeer| {
        for _ in 0..3 {
            // When it says so it has loaded and swapped half of what there is, or nearly all.
            let dying = truepeer.start()?;
            dying.signal(Signal::KILL)?;
        }
        next = Some(truepeer.start()?);
        Ok(())
    })?;
    site.daemon = next.context("it was started")?;
    site.end()
}

#[test]
fn a_plain_start_beside_a_living_daemon_names_both() -> Result<()> {
    let lab = Lab::new()?;
    let truepeer = lab.truepeer();
    let daemon = truepeer.start()?;
    let pid = format!("process {}", daemon.pid());
    truepeer
        .run_to_end()?
        .expect(1, &[lab.instance(), &pid, "--take-over"])
}

/// The daemon's end of a connection waits minutes for the host of an application that is silent, and the
/// kernel keeps its namespace as long.
#[test]
fn a_silent_application_keeps_no_device() -> Result<()> {
    let lab = Lab::new()?;
    let container = container_behind(&lab)?;
    let [target, _] = BEHIND.map(|address| format!("{address}:{APP_PORT}"));
    let app = App::listen(&container, target.parse()?)?;
    let truepeer = lab.truepeer().no_targets().args(["--target4", &target]);
    let mut daemon = truepeer.args(Path::Daemon.args()).start()?;
    let talk = Talk::open(&lab, &app, CLIENT.v4(FIRST_PORT), Version::V2)?;
    half_close(&talk, Side::App)?;
    nft(
        &container,
        "add table ip silent
        add chain ip silent in { type filter hook input priority 0 ; policy drop ; }",
    )?;
    drop(talk);
    poll::until("the daemon to close both ends", || {
        let open = lab.shown("status")?["connections"]["open"].take();
        Ok((open == 0).then_some(()))
    })?;
    daemon.signal(Signal::KILL)?;
    daemon.wait_exit()?;
    lab.no_device_left()
}
