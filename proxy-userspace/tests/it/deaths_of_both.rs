//! Daemon and keeper killed at once, so that nobody is left to end what is open: what the applications'
//! sockets may still send, and what the next start makes of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::poll;
use crate::lab::stream::expect_cut;
use crate::lab::talk::Talk;
use crate::lab::truepeer::keeper_of;

/// Of each family.
const COUNT: u16 = 25;
const FIRST_PORT: u16 = 20_300;

struct Site {
    open: Vec<Talk>,
    apps: [App; 2],
    lab: Lab,
}

impl Site {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let [v4, v6] = LOOPBACK.both(APP_PORT);
        let apps = [App::listen(&lab.host, v4)?, App::listen(&lab.host, v6)?];
        let open = Vec::new();
        Ok(Self { open, apps, lab })
    }

    fn connect(&self, client: SocketAddr) -> Result<Talk> {
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        let service = HOST.like(client, TRUEPEER_PORT);
        let balancer = self.lab.balancer_to(service, &header)?;
        let mut talk = Talk::accept(balancer, &self.apps[usize::from(client.is_ipv6())], client)?;
        talk.round_trip()?;
        Ok(talk)
    }

    fn open(&mut self) -> Result<()> {
        for port in FIRST_PORT..FIRST_PORT + COUNT {
            for client in CLIENT.both(port) {
                let talk = self.connect(client)?;
                self.open.push(talk);
            }
        }
        let shown = self.lab.shown("connections")?;
        let all = shown.as_array().context("an array")?;
        let direct = all.iter().filter(|one| one["path"] == "direct").count();
        ensure!(direct == self.open.len(), "only {direct} are direct");
        Ok(())
    }

    /// While `work` is done, all applications send without a pause.
    fn while_busy(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let apps: Vec<_> = self.open.iter().map(|talk| &talk.app).collect();
        for app in &apps {
            app.set_nonblocking(true)?;
        }
        let (done, rounds) = (&AtomicBool::new(false), &AtomicUsize::new(0));
        let worked = thread::scope(|scope| {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for app in &apps {
                        // A full buffer says nothing, nor does what the network has said of the other end.
                        let _ = (&**app).write(b"x");
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            let worked = wait_rounds(rounds).and_then(|()| work());
            done.store(true, Ordering::Relaxed);
            worked
        });
        for talk in &self.open {
            talk.app.set_nonblocking(false)?;
        }
        worked
    }
}

fn wait_rounds(rounds: &AtomicUsize) -> Result<()> {
    poll::until("all to have sent something", || {
        Ok((rounds.load(Ordering::Relaxed) > 10).then_some(()))
    })
}

/// Says something, and hears that nobody wants it, if it hasn't before.
fn expect_reset_at_the_next_segment(mut stream: &TcpStream) -> Result<()> {
    if let Err(error) = stream.write_all(b"anybody there?") {
        return is_reset(&error);
    }
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => bail!("an orderly end instead of a reset"),
            // What the app had sent.
            Ok(_) => {}
            Err(error) => return is_reset(&error),
        }
    }
}

fn is_reset(error: &std::io::Error) -> Result<()> {
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

#[test]
fn they_leak_nothing_of_ipv4_and_the_next_start_ends_all() -> Result<()> {
    let mut site = Site::new()?;
    let truepeer = site.lab.truepeer().orphan_timeout("10s");
    let mut daemon = truepeer.start()?;
    site.open()?;
    ensure!(
        site.lab.host.devices()?.contains("truepeer0s"),
        "no TUN device: this test needs /dev/net/tun"
    );
    let keeper = keeper_of(&daemon)?;
    let both = Leaks::watch(&site.lab.edge)?;
    site.while_busy(|| {
        daemon.signal(Signal::KILL)?;
        kill_process(keeper, Signal::KILL)?;
        site.lab.no_device_left()
    })?;
    daemon.wait_exit()?;

    let mut next = truepeer.start()?;
    let from_now_on = Leaks::watch(&site.lab.edge)?;
    next.wait_line("50 connections of a killed daemon were ended")?;
    for mut talk in site.open.drain(..) {
        expect_cut(&mut talk.app).context("the application")?;
        expect_reset_at_the_next_segment(&talk.balancer).context("the balancer")?;
    }
    for client in CLIENT.both(FIRST_PORT) {
        let mut talk = site.connect(client)?;
        talk.round_trip().context("a new one, of an old client")?;
    }
    both.saw_no_ipv4()?;
    from_now_on.saw_none()?;
    next.signal(Signal::TERM)?;
    ensure!(next.wait_exit()?.code() == Some(0), "{:?}", next.log());
    Ok(())
}
