//! The host of a row, and its connections.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::Family;
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FAR, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT,
};
use crate::lab::app::App;
use crate::lab::flows;
use crate::lab::header::Version;
use crate::lab::lossy::{Lossy, Nature};
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::proc::Proc;
use crate::lab::talk::Talk;
use crate::lab::truepeer::Truepeer;

/// What a row needs other than a plain host and an app on loopback.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// What the daemon is told to have connections take.
    pub told: Path,
    /// What they are expected to take.
    pub path: Path,
    pub family: Family,
    pub bind: Pair,
    pub listen: fn(&Netns, SocketAddr) -> Result<App>,
    pub args: &'a [&'a str],
    /// Who may connect besides the balancer.
    pub allow: &'a [&'a str],
    pub set_up: &'a dyn Fn(&Lab) -> Result<()>,
    /// The balancer's address: [`BALANCER`], or one of the clients' namespace.
    pub balancer: Pair,
    /// In the place of the balancer's link.
    pub wire: Option<Nature>,
}

impl<'a> Plan<'a> {
    pub fn direct(family: Family) -> Self {
        Self::new(Path::Direct, family)
    }

    pub fn daemon(family: Family) -> Self {
        Self::new(Path::Daemon, family)
    }

    pub fn new(path: Path, family: Family) -> Self {
        Self {
            told: path,
            path,
            family,
            bind: LOOPBACK,
            listen: App::listen,
            args: &[],
            allow: &[],
            set_up: &|_| Ok(()),
            balancer: BALANCER,
            wire: None,
        }
    }

    /// Connections take the daemon's path though the daemon isn't told so.
    pub fn falls_back(family: Family) -> Self {
        Self {
            path: Path::Daemon,
            ..Self::new(Path::Direct, family)
        }
    }

    /// The balancer is one router away, where the clients are; the edge is that router.
    pub fn far(self) -> Self {
        Self {
            balancer: FAR,
            ..self
        }
    }

    pub fn is_v4(&self) -> bool {
        (self.family)(HOST, 0).is_ipv4()
    }

    pub fn start(self) -> Result<Site> {
        self.start_in(Lab::new()?)
    }

    /// In a lab where something is already.
    pub fn start_in(self, lab: Lab) -> Result<Site> {
        let wire = self.wire.map(|nature| match self.is_far() {
            true => lab.rewire_clients(nature),
            false => lab.rewire_uplink(nature),
        });
        let wire = wire.transpose()?;
        (self.set_up)(&lab).context("setting the host up")?;
        let bind = (self.family)(self.bind, APP_PORT);
        let app = (self.listen)(&lab.host, bind)?;
        let truepeer = self.truepeer(&lab).start()?;
        Ok(Site {
            truepeer,
            app,
            wire,
            lab,
            path: self.path,
            family: self.family,
            balancer: self.balancer,
        })
    }

    /// The daemon that the plan wants in a lab, not started yet.
    pub fn truepeer(&self, lab: &Lab) -> Truepeer {
        let balancer = self.balancer.both(0).map(|addr| addr.ip().to_string());
        let others = self.allow.iter().map(|&entry| entry.to_owned());
        lab.truepeer()
            .targets_for((self.family)(self.bind, APP_PORT))
            .allow(balancer.into_iter().chain(others))
            .args(self.told.args())
            .args(self.args)
    }

    fn is_far(&self) -> bool {
        self.balancer.v4 != BALANCER.v4
    }
}

/// In the order of dropping: the lab checks what the daemon has left.
pub struct Site {
    pub truepeer: Proc,
    pub app: App,
    /// Of the plan, if it has one.
    pub wire: Option<Lossy>,
    pub lab: Lab,
    pub path: Path,
    pub family: Family,
    balancer: Pair,
}

impl Site {
    pub fn of(&self, pair: Pair, port: u16) -> SocketAddr {
        (self.family)(pair, port)
    }

    /// The service, as balancers see it.
    pub fn service(&self) -> SocketAddr {
        self.of(HOST, TRUEPEER_PORT)
    }

    pub fn client(&self, port: u16) -> SocketAddr {
        self.of(CLIENT, port)
    }

    /// What a balancer says of [`Self::client`].
    pub fn header(&self, version: Version, port: u16) -> Vec<u8> {
        version.header(self.client(port), self.of(FRONT, FRONT_PORT))
    }

    /// A connection that has moved nothing but its header.
    pub fn open(&self, port: u16) -> Result<Talk> {
        self.open_from(0, port)
    }

    /// Port 0 of the balancer's is any.
    pub fn open_from(&self, balancer_port: u16, port: u16) -> Result<Talk> {
        self.open_over(self.connect(balancer_port)?, port)
    }

    pub fn open_over(&self, balancer: TcpStream, port: u16) -> Result<Talk> {
        (&balancer).write_all(&self.header(Version::V2, port))?;
        Talk::accept(balancer, &self.app, self.client(port))
    }

    /// The balancer has sent a header and `words` in one segment, whoever takes them.
    pub fn begin(&self, port: u16, words: &[u8]) -> Result<TcpStream> {
        let mut balancer = self.connect(0)?;
        balancer.write_all(&[&self.header(Version::V2, port), words].concat())?;
        Ok(balancer)
    }

    /// The balancer has connected, and not said anything.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        let (source, target) = (self.of(self.balancer, port), self.service());
        self.balancers_netns()
            .connect_from(source, target)
            .with_context(|| format!("the balancer connects to {target}"))
    }

    pub fn balancers_netns(&self) -> &Netns {
        if self.balancer.v4 == BALANCER.v4 {
            &self.lab.edge
        } else {
            &self.lab.client
        }
    }

    /// The balancer, with any of its ports.
    pub fn balancer(&self) -> SocketAddr {
        self.of(self.balancer, 0)
    }

    /// A connection that has talked, by the path that it should.
    pub fn warm(&self, port: u16) -> Result<Talk> {
        let mut talk = self.open(port)?;
        talk.warm_up(&self.lab, self.path)?;
        Ok(talk)
    }

    pub fn kill(&mut self) -> Result<()> {
        self.truepeer.signal(Signal::KILL)?;
        self.truepeer.wait_exit()?;
        Ok(())
    }

    /// The kernel has forgotten all direct connections.
    pub fn no_flow_left(&self) -> Result<()> {
        match self.path {
            Path::Direct => flows::wait_none(&self.truepeer),
            Path::Daemon => Ok(()),
        }
    }
}
