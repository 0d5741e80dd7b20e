//! Both ends of a connection from a balancer to an app, and what they say to each other.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::Lab;
use super::addr::{APP_PORT, FRONT, FRONT_PORT};
use super::app::App;
use super::header::Version;
use super::path::Path;
use super::payload::Payload;
use super::stream::{expect, expect_end};

/// Enough for timers and windows to have found their places.
const WARM_UP: usize = 16;
const MESSAGE: usize = 64;
/// What a warm-up moves each way.
pub const WARM_UP_BYTES: usize = WARM_UP * MESSAGE;

pub struct Talk {
    pub balancer: TcpStream,
    pub app: TcpStream,
}

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Balancer,
    App,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Balancer, Self::App];
}

impl Talk {
    /// Fails unless the app sees `client`, and the connection under the app's own port.
    pub fn open(lab: &Lab, app: &App, client: SocketAddr, version: Version) -> Result<Self> {
        let balancer = lab.balancer(&version.header(client, FRONT.like(client, FRONT_PORT)))?;
        Self::accept(balancer, app, client)
    }

    pub fn accept(balancer: TcpStream, app: &App, client: SocketAddr) -> Result<Self> {
        let (app, peer) = app.accept()?;
        ensure!(peer == client, "the app saw {peer}, not {client}");
        let local = app.local_addr()?;
        ensure!(
            local.port() == APP_PORT,
            "the app is at {local} all at once"
        );
        Ok(Self { balancer, app })
    }

    /// The end of `side`, and the other one.
    pub fn ends(&self, side: Side) -> (&TcpStream, &TcpStream) {
        match side {
            Side::Balancer => (&self.balancer, &self.app),
            Side::App => (&self.app, &self.balancer),
        }
    }

    /// The same, to be closed one by one.
    pub fn split(self, side: Side) -> (TcpStream, TcpStream) {
        match side {
            Side::Balancer => (self.balancer, self.app),
            Side::App => (self.app, self.balancer),
        }
    }

    pub fn round_trip(&mut self) -> Result<()> {
        self.exchange(b"ping", b"pong")
    }

    fn exchange(&mut self, question: &[u8], answer: &[u8]) -> Result<()> {
        self.balancer.write_all(question)?;
        expect(&mut self.app, question).context("to the app")?;
        self.app.write_all(answer)?;
        expect(&mut self.balancer, answer).context("from the app")
    }

    /// Question and answer of `size` bytes each, no two alike.
    pub fn ping_pong(&mut self, rounds: usize, size: usize) -> Result<()> {
        for round in 0..rounds {
            let [low, ..] = round.to_le_bytes();
            let (question, answer) = (vec![low; size], vec![!low; size]);
            self.exchange(&question, &answer)
                .with_context(|| format!("round {round} of {rounds} with {size} bytes"))?;
        }
        Ok(())
    }

    /// Talks a little, and fails unless the connection goes by `path`.
    pub fn warm_up(&mut self, lab: &Lab, path: Path) -> Result<()> {
        self.ping_pong(WARM_UP, MESSAGE)?;
        lab.wait_path(self, path)
    }

    /// Ends both halves, and both ends hear of it before either is closed: a socket that is being
    /// closed can miss the other's end, which then is sent again, to whoever is left.
    pub fn close(self, first: Side) -> Result<()> {
        let (mut first, mut second) = self.split(first);
        first.shutdown(Shutdown::Write)?;
        expect_end(&mut second)?;
        second.shutdown(Shutdown::Write)?;
        expect_end(&mut first)
    }

    /// 8 MiB both ways at once, to the end of both streams.
    pub fn bulk(self) -> Result<()> {
        self.transfer(&Side::BOTH, 8 << 20)
    }

    /// The bytes from `start` to `end` from `side`, and no more.
    pub fn part(&self, side: Side, payload: &Payload, start: usize, end: usize) -> Result<()> {
        let (from, to) = self.ends(side);
        thread::scope(|scope| {
            let sending = scope.spawn(move || payload.send_from(&mut &*from, start, end));
            payload.receive_from(&mut &*to, start, end)?;
            sending.join().expect("no panic on the way")
        })
    }

    /// `length` bytes from each at once, and neither stream ends.
    pub fn both_ways(&self, length: usize) -> Result<()> {
        let payload = &Payload::new(self.balancer.local_addr()?.port().into());
        thread::scope(|scope| {
            let down = scope.spawn(move || self.part(Side::App, payload, 0, length));
            self.part(Side::Balancer, payload, 0, length)
                .context("to the app")?;
            let down = down.join().expect("no panic on the way");
            down.context("from the app")
        })
    }

    /// `length` bytes from each of `senders`, all at once and to the end of their streams.
    pub fn transfer(&self, senders: &[Side], length: usize) -> Result<()> {
        thread::scope(|scope| {
            let mut halves = Vec::new();
            for &side in senders {
                let (from, to) = self.ends(side);
                halves.push(scope.spawn(move || {
                    transfer(from, to, length).with_context(|| format!("{side:?} sends"))
                }));
            }
            halves
                .into_iter()
                .try_for_each(|half| half.join().expect("no panic on the way"))
        })
    }
}

fn transfer(from: &TcpStream, to: &TcpStream, length: usize) -> Result<()> {
    let payload = &Payload::new(from.local_addr()?.port().into());
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            payload.send(&mut &*from, length)?;
            Ok(from.shutdown(Shutdown::Write)?)
        });
        payload.receive(&mut &*to, length)?;
        sending.join().expect("no panic on the way")
    })
}
