//! A contender's network: a balancer and a host, joined by a veth pair.
//!
//! ```text
//!   edge, the balancer             host, proxy and app
//!   198.51.100.1 ───────────────── 198.51.100.2   app at 127.0.0.1:8080, proxy at :7000
//! ```
//!
//! The clients, 203.0.113.0/24, exist in headers only; the host's way to them leads back to the
//! balancer, as on any host behind one.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::app::App;
use crate::connects;
use crate::dial::{self, Dialer};
use crate::lab::addr::{APP_PORT, BALANCER, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::netns::Netns;
use crate::peers::{self, Kind, Running};
use crate::place::Place;
use crate::usage::Usage;

/// What everybody's routes say, whatever this machine has: Linux's default. BBR, for one, holds
/// single streams back where round trips are as short and as uneven as here.
pub const CONGESTION_CONTROL: &str = "cubic";

pub struct Site {
    pub kind: Kind,
    pub host: Netns,
    pub running: Running,
    edge: Place,
}

impl Site {
    /// With the contender running and its app behind it. `prefixes` is the allowlist's length.
    pub fn start(kind: Kind, app: &App, prefixes: usize) -> Result<Self> {
        let (edge, host) = (Netns::new("edge")?, Netns::new("host")?);
        wire(&edge, &host).context("wiring a site")?;
        for address in [LOOPBACK, HOST] {
            app.listen(&host, address.v4(APP_PORT))?;
        }
        let running = peers::start(kind, &host, prefixes)
            .with_context(|| format!("starting {}", kind.name()))?;
        let edge = Place::of(&edge)?;
        let site = Self {
            kind,
            host,
            running,
            edge,
        };
        site.shows_client(app)?;
        Ok(site)
    }

    /// Figures of a proxy that doesn't do the job would be worth nothing.
    fn shows_client(&self, app: &App) -> Result<()> {
        connects::in_turn(&self.dialer(), 1).context("a first connection")?;
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
        let (target, header) = match self.kind {
            Kind::Direct => (HOST.v4(APP_PORT), false),
            _ => (HOST.v4(TRUEPEER_PORT), true),
        };
        Dialer::new(self.edge.clone(), target).header(header)
    }

    /// From the balancer to the app, past the proxy.
    pub fn past_proxy(&self) -> Dialer {
        Dialer::new(self.edge.clone(), HOST.v4(APP_PORT))
    }

    /// From the host itself to the app, by `lo`.
    pub fn on_loopback(&self) -> Result<Dialer> {
        Ok(Dialer::new(Place::of(&self.host)?, LOOPBACK.v4(APP_PORT)))
    }

    pub fn usage(&self) -> Usage {
        Usage::of(self.running.pid())
    }
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
