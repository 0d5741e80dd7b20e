//! The host of a row, and its datagrams.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT,
};
use crate::lab::datagram::{self, Echo, Framing, Kind};
use crate::lab::leaks::Leaks;
use crate::lab::lossy::{Lossy, Nature};
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::truepeer::Truepeer;

/// What a row needs other than an app on loopback and v2.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub path: Path,
    pub family: fn(Pair, u16) -> SocketAddr,
    /// The same of its clients and the app.
    pub clients: fn(Pair, u16) -> SocketAddr,
    pub framing: Framing,
    /// Where the service is.
    pub listen: Pair,
    /// The target, and where the app is bound.
    pub target: Pair,
    pub bind: Pair,
    pub kind: Kind,
    /// Whether there is a target of each family.
    pub both: bool,
    /// Whether there is none of the other one, which else is on loopback.
    pub alone: bool,
    pub args: &'a [&'a str],
    pub orphan_timeout: &'static str,
    /// Balancers besides the lab's.
    pub allow: &'a [Pair],
    /// In the uplink's place, if it isn't to be a veth pair.
    pub wire: Option<Nature>,
    pub set_up: &'a dyn Fn(&Lab) -> Result<()>,
}

impl Plan<'_> {
    pub fn new(path: Path, family: fn(Pair, u16) -> SocketAddr) -> Self {
        Self {
            path,
            family,
            clients: family,
            framing: Framing::V2,
            listen: HOST,
            target: LOOPBACK,
            bind: LOOPBACK,
            kind: Kind::Unconnected,
            both: false,
            alone: false,
            args: &[],
            orphan_timeout: "0s",
            allow: &[],
            wire: None,
            set_up: &|_| Ok(()),
        }
    }

    /// With clients, and an app, of the other family than the balancer's.
    pub fn clients_of_other(self) -> Self {
        let clients = other((self.family)(HOST, 0));
        Self { clients, ..self }
    }

    /// With the app at this address, which is the target.
    pub fn app_at(self, at: Pair) -> Self {
        Self {
            target: at,
            bind: at,
            ..self
        }
    }

    fn targets(&self, truepeer: Truepeer) -> Truepeer {
        let own = (self.clients)(self.target, APP_PORT);
        if !self.both && !self.alone {
            return truepeer.targets_for(own);
        }
        let mut all = self.target.both(APP_PORT).to_vec();
        all.retain(|at| self.both || *at == own);
        let args = all.iter().flat_map(|at| match at {
            SocketAddr::V4(_) => ["--target4".to_owned(), at.to_string()],
            SocketAddr::V6(_) => ["--target6".to_owned(), at.to_string()],
        });
        truepeer.no_targets().args(args)
    }

    /// Those that the row is tried in: for each one the programs are others, while the daemon has the same code but
    /// for its headers.
    pub fn framings(&self) -> &'static [Framing] {
        match self.path {
            Path::Direct => &Framing::ALL,
            Path::Daemon => Framing::scaled(),
        }
    }

    pub fn start(self) -> Result<Site> {
        self.serve(|host, bind| Echo::listen(host, bind, self.kind))
    }

    /// With an app of the row's own, in the host's namespace and bound to this address.
    pub fn serve<A>(self, app: impl FnOnce(&Netns, SocketAddr) -> Result<A>) -> Result<Site<A>> {
        let lab = Lab::new()?;
        let wire = self.wire.map(|nature| lab.rewire_uplink(nature));
        let wire = wire.transpose()?;
        (self.set_up)(&lab).context("setting the host up")?;
        let app = app(&lab.host, (self.clients)(self.bind, APP_PORT)).context("the app")?;
        let all = [&[BALANCER], self.allow].concat();
        let all = all.iter().flat_map(|pair| pair.both(0));
        let truepeer = lab.truepeer().allow(all.map(|at| at.ip().to_string()));
        let command = self
            .targets(truepeer)
            .listen(self.listen.both(TRUEPEER_PORT))
            .orphan_timeout(self.orphan_timeout)
            .args(self.path.args())
            .args(self.framing.args())
            .args(self.args);
        Ok(Site {
            leaks: Leaks::watch(&lab.edge)?,
            truepeer: command.start()?,
            command,
            app,
            _wire: wire,
            lab,
            path: self.path,
            family: self.family,
            clients: self.clients,
            framing: self.framing,
        })
    }
}

/// In the order of dropping: the lab checks what the daemon has left.
pub struct Site<A = Echo> {
    pub leaks: Leaks,
    pub truepeer: Proc,
    pub app: A,
    /// What has started it.
    pub command: Truepeer,
    _wire: Option<Lossy>,
    pub lab: Lab,
    pub path: Path,
    pub family: fn(Pair, u16) -> SocketAddr,
    pub clients: fn(Pair, u16) -> SocketAddr,
    pub framing: Framing,
}

/// The family that this address isn't of.
pub fn other(addr: SocketAddr) -> fn(Pair, u16) -> SocketAddr {
    if addr.is_ipv4() { Pair::v6 } else { Pair::v4 }
}

impl<A> Site<A> {
    pub fn of(&self, pair: Pair, port: u16) -> SocketAddr {
        (self.family)(pair, port)
    }

    /// The service, as balancers see it.
    pub fn service(&self) -> SocketAddr {
        self.of(HOST, TRUEPEER_PORT)
    }

    pub fn client(&self, port: u16) -> SocketAddr {
        (self.clients)(CLIENT, port)
    }

    pub fn front(&self) -> SocketAddr {
        (self.clients)(FRONT, FRONT_PORT)
    }

    /// A balancer's socket, which hears the service alone.
    pub fn balancer(&self) -> Result<UdpSocket> {
        self.balancer_at(BALANCER)
    }

    /// The same of somebody else.
    pub fn balancer_at(&self, pair: Pair) -> Result<UdpSocket> {
        let socket = datagram::socket(&self.lab.edge, self.of(pair, 0))?;
        socket.connect(self.service())?;
        Ok(socket)
    }

    pub fn header(&self, port: u16) -> Vec<u8> {
        self.framing.header(self.client(port), self.front())
    }

    /// Of what a balancer's socket sends behind its first datagram for a client.
    pub fn next_header(&self, port: u16) -> Vec<u8> {
        match self.framing {
            Framing::V2First => Vec::new(),
            Framing::V2 | Framing::Any | Framing::Spp => self.header(port),
        }
    }

    pub fn answered(&self, balancer: &UdpSocket, port: u16, words: &[u8]) -> Result<()> {
        let (reply, _) = datagram::receive(balancer).context("the answer")?;
        let header = self.framing.reply_header(self.client(port), self.front());
        ensure!(
            reply == [&header, words].concat(),
            "an answer of {} bytes to {} with a header of {}",
            reply.len(),
            words.len(),
            header.len()
        );
        Ok(())
    }

    /// The programs and the daemon know no client any more.
    pub fn wait_forgotten(&self) -> Result<()> {
        poll::until("the flow to be forgotten", || {
            let shown = self.lab.shown("connections")?;
            let all = shown.as_array().context("an array")?;
            Ok(all.is_empty().then_some(()))
        })
    }

    /// All went by the path that it should, and nothing has leaked.
    pub fn end(self) -> Result<()> {
        let shown = self.lab.shown("connections")?;
        let all = shown.as_array().context("an array")?;
        ensure!(!all.is_empty(), "no flow is listed");
        let is_right = |one: &serde_json::Value| one["path"] == self.path.name();
        ensure!(all.iter().all(is_right), "by another path: {shown:#}");
        if self.path == Path::Direct {
            let kernel = self.lab.shown("status")?["kernel"].take();
            let count = |name: &str| kernel[name].as_u64().unwrap_or_default();
            ensure!(count("datagram_up") > 0, "none went up: {kernel:#}");
            ensure!(count("datagram_down") > 0, "none went down: {kernel:#}");
            for daemons in ["datagram_to_daemon_family", "datagram_reply_service"] {
                ensure!(count(daemons) == 0, "{daemons}: {kernel:#}");
            }
        }
        self.leaks.saw_none()
    }
}

impl Site {
    /// One datagram there and back, which the app sees come from the client.
    pub fn exchange(&self, balancer: &UdpSocket, port: u16, words: &[u8]) -> Result<()> {
        self.exchange_with(balancer, &self.header(port), port, words)
    }

    /// With another header.
    pub fn exchange_with(
        &self,
        balancer: &UdpSocket,
        header: &[u8],
        port: u16,
        words: &[u8],
    ) -> Result<()> {
        balancer.send(&[header, words].concat())?;
        self.app_got(port, words)?;
        self.answered(balancer, port, words)
    }

    pub fn app_got(&self, port: u16, words: &[u8]) -> Result<()> {
        let (client, got) = self.app.next()?;
        ensure!(client == self.client(port), "the app sees {client}");
        ensure!(got == words, "the app got {} bytes", got.len());
        Ok(())
    }
}
