//! A contender's network: a balancer and a host, joined by a veth pair.
//!
//! ```text
//!   edge, the balancer             host, proxy and app
//!   198.51.100.1 ───────────────── 198.51.100.2   app at 127.0.0.1:8080, proxy at :7000
//! ```
//!
//! The clients, 203.0.113.0/24, exist in headers only; the host's way to them leads back to the
//! balancer, as on any host behind one. The balancer has further addresses, for connections that
//! stay open beside a load, and a flood comes in the names of allowed balancers that don't exist.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};

use crate::app::{App, Port};
use crate::connects;
use crate::dial::{self, Dialer};
use crate::files;
use crate::kind::Kind;
use crate::lab::addr::{APP_PORT, BALANCER, HOST, LOOPBACK, Pair, TRUEPEER_PORT};
use crate::lab::netns::Netns;
use crate::peers::{self, Recipe, Running};
use crate::pings::{self, MESSAGE};
use crate::place::Place;
use crate::protocol::Protocol;
use crate::udp;
use crate::usage::Usage;

/// What everybody's routes say, whatever this machine has: Linux's default. BBR, for one, holds
/// single streams back where round trips are as short and as uneven as here.
pub const CONGESTION_CONTROL: &str = "cubic";

/// Who may send headers.
pub const BALANCERS: &str = "198.51.100.0/24";

/// The last bytes of the balancer's further addresses.
const FURTHER: RangeInclusive<u8> = 101..=140;

/// The balancer's further address of this number.
pub fn further(number: usize) -> Result<Ipv4Addr> {
    let mut all = FURTHER;
    let last = all.nth(number);
    let last = last.with_context(|| format!("the balancer has no {number} further addresses"))?;
    Ok(Ipv4Addr::new(198, 51, 100, last))
}

pub struct Site {
    pub kind: Kind,
    pub protocol: Protocol,
    pub host: Netns,
    /// Where the app listens for connections.
    pub ports: Vec<Port>,
    pub running: Running,
    edge: Place,
}

impl Site {
    /// With the contender running and its app behind it.
    pub fn start(kind: Kind, app: &App, recipe: &Recipe) -> Result<Self> {
        let (edge, host) = (Netns::new("edge")?, Netns::new("host")?);
        wire(&edge, &host).context("wiring a site")?;
        let ports = match recipe.protocol {
            Protocol::Tcp => listen(app, &host)?.into(),
            Protocol::Udp(_) => {
                app.answer(&host, at(kind).v4(APP_PORT))?;
                Vec::new()
            }
        };
        let running = peers::start(kind, &host, recipe)
            .with_context(|| format!("starting {}", kind.name()))?;
        let edge = Place::of(&edge)?;
        let site = Self {
            kind,
            protocol: recipe.protocol,
            host,
            ports,
            running,
            edge,
        };
        site.shows_client(app)?;
        Ok(site)
    }

    /// Figures of a proxy that doesn't do the job would be worth nothing.
    fn shows_client(&self, app: &App) -> Result<()> {
        match self.protocol {
            Protocol::Tcp => connects::in_turn(&self.dialer(), 1).context("a first connection")?,
            Protocol::Udp(_) => udp::greet(self, 1).context("a first datagram")?,
        }
        let seen = app.last_client();
        let expected = self.kind == Kind::Direct || dial::is_client(seen);
        ensure!(
            expected,
            "{} shows the app {seen}, which is no client",
            self.kind.name()
        );
        Ok(())
    }

    /// How the balancer connects to the contender.
    pub fn dialer(&self) -> Dialer {
        match self.kind {
            Kind::Direct => self.past_proxy(),
            _ => Dialer::new(self.edge.clone(), HOST.v4(TRUEPEER_PORT)).header(),
        }
    }

    /// From the balancer to the app, past the proxy.
    pub fn past_proxy(&self) -> Dialer {
        Dialer::new(self.edge.clone(), HOST.v4(APP_PORT))
    }

    /// From the host itself to the app, by `lo`.
    pub fn on_loopback(&self) -> Result<Dialer> {
        Ok(Dialer::new(Place::of(&self.host)?, LOOPBACK.v4(APP_PORT)))
    }

    /// How many connections or flows the contender can hold by itself.
    pub fn capacity(&self) -> Result<usize> {
        let files = match self.kind {
            // None where connections are direct, which is for the host to say.
            Kind::Truepeer if self.protocol == Protocol::Tcp => self.files_of_one()?,
            kind => kind.files_each(self.protocol),
        };
        Ok(files::connections(files))
    }

    fn files_of_one(&self) -> Result<u64> {
        let descriptors = || Ok::<_, anyhow::Error>(self.usage().memory()?.descriptors);
        let before = descriptors()?;
        let mut one = self.dialer().dial_all(1, &MESSAGE)?;
        pings::greet(&mut one)?;
        Ok(descriptors()?.saturating_sub(before))
    }

    pub fn usage(&self) -> Usage {
        Usage::of(self.running.pid())
    }
}

/// Where the app gets a contender's datagrams. It has a socket at one address only: the other would have
/// those that a contender has lost.
fn at(kind: Kind) -> Pair {
    match kind {
        Kind::Direct => HOST,
        _ => LOOPBACK,
    }
}

/// Where proxies connect to, and where the balancer does past them.
pub fn listen(app: &App, host: &Netns) -> Result<[Port; 2]> {
    Ok([
        app.listen(host, LOOPBACK.v4(APP_PORT))?,
        app.listen(host, HOST.v4(APP_PORT))?,
    ])
}

fn wire(edge: &Netns, host: &Netns) -> Result<()> {
    edge.ip(&format!(
        "link add host type veth peer name edge netns {}
         link set host up addrgenmode none
         address add {}/24 dev host",
        host.path().display(),
        BALANCER.v4,
    ))?;
    host.ip(&format!(
        "link set edge up addrgenmode none
         address add {}/24 dev edge
         route add default via {}",
        HOST.v4, BALANCER.v4,
    ))?;
    let further = FURTHER.map(|last| format!("address add 198.51.100.{last}/32 dev host\n"));
    edge.ip(&further.collect::<String>())?;
    edge.ip(&format!(
        "route change 198.51.100.0/24 dev host src {} congctl {CONGESTION_CONTROL}",
        BALANCER.v4
    ))?;
    host.ip(&format!(
        "route change 198.51.100.0/24 dev edge src {} congctl {CONGESTION_CONTROL}
         route change default via {} congctl {CONGESTION_CONTROL}
         route change local 127.0.0.0/8 dev lo table local scope host src 127.0.0.1 congctl {CONGESTION_CONTROL}",
        HOST.v4, BALANCER.v4,
    ))?;
    // More connections than the default has ports for.
    for netns in [edge, host] {
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        netns.enter(|| fs::write(ports, "1024 65535"))?;
    }
    Ok(())
}
