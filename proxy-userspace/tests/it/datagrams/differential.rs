//! The same datagrams by both paths: headers of all kinds, right and wrong ones, payloads of all sizes, several
//! at once. What the app hears, whom it sees and what comes back is the same, or both paths refuse it, for the same
//! reasons.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::scripts::{Author, Family, Script, sockets};
use super::site::{Plan, Site};
use crate::lab::addr::{APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, LOOPBACK, Pair};
use crate::lab::datagram::{self, Echo, Framing, Kind};
use crate::lab::path::Path;
use crate::lab::scale::scaled;
use crate::lab::trains;
use crate::paths::differential::everybody_is_behind_the_balancer;

const SEED: u64 = 0x7564_7064_6966;
/// The balancer's.
const FIRST_PORT: u16 = 2000;
/// Of scripts: asking takes longer than one.
const REASONS_EVERY: usize = 50;
/// Too long for a packet: the daemon gets it, after all that it has got before.
const MARK: usize = 3000;

#[test]
fn v4() -> Result<()> {
    both_paths_agree([Pair::v4, Pair::v6])
}

#[test]
fn v6() -> Result<()> {
    both_paths_agree([Pair::v6, Pair::v4])
}

fn both_paths_agree(families: [Family; 2]) -> Result<()> {
    for framing in Framing::ALL {
        agree(framing, families).with_context(|| format!("{framing:?} with seed {SEED:#x}"))?;
    }
    Ok(())
}

fn agree(framing: Framing, families: [Family; 2]) -> Result<()> {
    let mut author = Author::new(SEED, framing, families);
    let start = |path| Stage::start(path, framing, families);
    let (mut direct, mut daemon) = (start(Path::Direct)?, start(Path::Daemon)?);
    let count: usize = scaled(350, 20_000);
    let (mut served, mut refused) = (0, 0);
    for number in 0..count {
        let script = author.script();
        let play = |stage: &mut Stage| {
            let played = stage.play(&script);
            played.with_context(|| format!("script {number}, {script:?}, by {}", stage.name()))
        };
        let (one, other) = (play(&mut direct)?, play(&mut daemon)?);
        ensure!(
            one == other,
            "script {number}, {script:?}: {one:?} directly, {other:?} by the daemon"
        );
        served += usize::from(!one.heard.is_empty());
        refused += usize::from(one.heard.is_empty());
        if number % REASONS_EVERY == 0 || number + 1 == count {
            let (one, other) = (direct.reasons()?, daemon.reasons()?);
            ensure!(
                one == other,
                "after script {number}: {one:?} directly, {other:?} by the daemon"
            );
        }
    }
    // Otherwise it compares nothing.
    ensure!(served > count / 3, "{served} were served");
    ensure!(refused > count / 50, "{refused} were refused");
    for stage in [&direct, &daemon] {
        stage.went_its_path(served)?;
    }
    direct.end()?;
    daemon.end()
}

/// What has come of a script, in an order that doesn't depend on which datagram overtakes which.
#[derive(PartialEq, Eq)]
struct Outcome {
    heard: Vec<(SocketAddr, Vec<u8>)>,
    replies: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (client, words) in &self.heard {
            let start = &words[..words.len().min(16)];
            write!(f, "{client} says {} bytes {start:02x?}, ", words.len())?;
        }
        let replies: Vec<_> = self.replies.iter().map(Vec::len).collect();
        write!(f, "replies of {replies:?}")
    }
}

/// A host where one path is tried, with an app of each family.
struct Stage {
    site: Site,
    other_app: Echo,
    sockets: Vec<UdpSocket>,
    /// In each family.
    marks: [Mark; 2],
}

impl Stage {
    fn start(path: Path, framing: Framing, [own, other]: [Family; 2]) -> Result<Self> {
        let plan = Plan {
            framing,
            both: true,
            // Between two turns of a socket, the one path's clock may forget a client that the other still knows.
            args: &["--close-after", "1h"],
            set_up: &everybody_is_behind_the_balancer,
            ..Plan::new(path, own)
        };
        let site = plan.start()?;
        let at = other(LOOPBACK, APP_PORT);
        let other_app = Echo::listen(&site.lab.host, at, Kind::Unconnected)?;
        let mut ports = FIRST_PORT..;
        let mut next = || balancer(&site, ports.next().context("a port")?);
        Ok(Self {
            marks: [Mark::new(next()?, own), Mark::new(next()?, other)],
            sockets: (0..sockets()).map(|_| next()).collect::<Result<_>>()?,
            other_app,
            site,
        })
    }

    fn name(&self) -> &'static str {
        self.site.path.name()
    }

    fn play(&mut self, script: &Script) -> Result<Outcome> {
        let socket = &self.sockets[script.socket];
        trains::send(socket, None, &script.datagrams)?;
        let mut heard = Vec::new();
        for (mark, app) in self.marks.iter_mut().zip([&self.site.app, &self.other_app]) {
            mark.send(self.site.framing)?;
            loop {
                let (client, words) = app.next()?;
                if client == mark.client {
                    break;
                }
                heard.push((client, words));
            }
            mark.answered().context("a mark")?;
        }
        // The app has answered all that it has heard.
        let framing = self.site.framing;
        let reply = |_| {
            let (mut reply, _) = datagram::receive(socket).context("an answer")?;
            if framing == Framing::Spp {
                forget_destination(&mut reply);
            }
            Ok(reply)
        };
        let replies: Result<Vec<_>> = heard.iter().map(reply).collect();
        let mut replies = replies?;
        heard.sort();
        replies.sort();
        Ok(Outcome { heard, replies })
    }

    /// Why datagrams were refused, and how many, whether the programs have done it or the daemon.
    fn reasons(&self) -> Result<BTreeMap<String, u64>> {
        let mut status = self.site.lab.shown("status")?;
        let ended = status["services"][0]["connections"]["ended"].take();
        let mut reasons: BTreeMap<String, u64> = serde_json::from_value(ended)?;
        for (by_programs, by_daemon) in [
            ("datagram_denied", "client_denied"),
            ("datagram_taken", "taken"),
            ("datagram_forgotten", "forgotten"),
            ("datagram_reverse_path", "reverse_path"),
            ("datagram_refused", "refused"),
            ("datagram_full", "full"),
        ] {
            let times = status["kernel"][by_programs].as_u64();
            *reasons.entry(by_daemon.to_owned()).or_default() += times.context(by_programs)?;
        }
        reasons.retain(|_, times| *times > 0);
        Ok(reasons)
    }

    /// The programs have sent on a part of what was served, or nothing at all. Behind what has gone by the daemon
    /// more does for a second, with v2-first most of all.
    fn went_its_path(&self, served: usize) -> Result<()> {
        let kernel = self.site.lab.shown("status")?["kernel"].take();
        let count = |name: &str| kernel[name].as_u64().with_context(|| name.to_owned());
        let moved = [count("datagram_up")?, count("datagram_down")?];
        let given = count("datagram_to_daemon_service")?;
        let part = u64::try_from(served / 50)?;
        let is_right = match self.site.path {
            Path::Direct => given == 0 && moved.iter().all(|count| *count > part),
            Path::Daemon => given > part && moved == [0, 0],
        };
        ensure!(
            is_right,
            "{served} were served by {}: {kernel:#}",
            self.name()
        );
        Ok(())
    }

    /// Nothing has come but what was waited for.
    fn end(self) -> Result<()> {
        for socket in &self.sockets {
            socket.set_nonblocking(true)?;
            let error = socket.recv(&mut [0; 100]).expect_err("one answer too many");
            ensure!(error.kind() == ErrorKind::WouldBlock, "{error}");
        }
        self.site.leaks.saw_none()
    }
}

/// Where a client has sent to last: of two datagrams at once, either may be the last.
fn forget_destination(reply: &mut [u8]) {
    for part in [18..34, 36..38] {
        reply.get_mut(part).unwrap_or_default().fill(0);
    }
}

fn balancer(site: &Site, port: u16) -> Result<UdpSocket> {
    let socket = datagram::socket(&site.lab.edge, site.of(BALANCER, port))?;
    socket.connect(site.service())?;
    Ok(socket)
}

/// A client whose datagram comes after all that were sent before, by whichever path.
struct Mark {
    socket: UdpSocket,
    client: SocketAddr,
    front: SocketAddr,
    is_known: bool,
}

impl Mark {
    fn new(socket: UdpSocket, family: Family) -> Self {
        Self {
            socket,
            client: family(CLIENT, 1),
            front: family(FRONT, FRONT_PORT),
            is_known: false,
        }
    }

    fn send(&mut self, framing: Framing) -> Result<()> {
        let header = match framing {
            Framing::V2First if self.is_known => Vec::new(),
            _ => framing.header(self.client, self.front),
        };
        self.is_known = true;
        self.socket.send(&[header, vec![7; MARK]].concat())?;
        Ok(())
    }

    fn answered(&self) -> Result<()> {
        let (reply, _) = datagram::receive(&self.socket)?;
        ensure!(reply.len() >= MARK, "{} bytes", reply.len());
        Ok(())
    }
}
