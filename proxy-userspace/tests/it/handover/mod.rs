//! Connections that have moved some data, so that they are handed over to the kernel: nobody at
//! either end may notice, whatever happens to them afterwards. `kept` has those that stay with the
//! daemon.
//!
//! Both legs are of one family here, and the app is on this host, as a handover needs it.

mod aborts;
mod accounts;
mod closes;
mod drain;
mod firewalls;
mod forged;
mod identity;
mod integrity;
mod kept;
mod killed;
mod loss;
mod mtu;
mod numbers;
mod options;
mod reuse;
mod several;
mod stalls;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, OTHER_CLIENT, Pair,
    TRUEPEER_PORT,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;
use crate::lab::talk::Talk;

const MIB: usize = 1 << 20;
/// A port that no kernel picks by itself.
const CLIENT_PORT: u16 = 20_300;

/// [`Pair::v4`] or [`Pair::v6`].
type Family = fn(Pair, u16) -> SocketAddr;

/// Tests of both families, `name::v4` and `name::v6`, of functions that take one.
macro_rules! families {
    ($($(#[$meta:meta])* $name:ident;)*) => { $(
        $(#[$meta])*
        mod $name {
            #[test]
            fn v4() -> anyhow::Result<()> {
                super::$name(crate::lab::addr::Pair::v4)
            }

            #[test]
            fn v6() -> anyhow::Result<()> {
                super::$name(crate::lab::addr::Pair::v6)
            }
        }
    )* };
}

use families;

/// What a test needs other than a plain host and an app on loopback.
struct Plan<'a> {
    family: Family,
    bind: Pair,
    args: &'a [&'a str],
    set_up: &'a dyn Fn(&Lab) -> Result<()>,
    /// The balancer's address: [`BALANCER`], or one of the clients' namespace.
    balancer: Pair,
}

impl Plan<'_> {
    fn new(family: Family) -> Self {
        Self {
            family,
            bind: LOOPBACK,
            args: &[],
            set_up: &|_| Ok(()),
            balancer: BALANCER,
        }
    }

    /// The balancer is one router away, where the clients are; the edge is that router.
    fn far(family: Family) -> Self {
        Self {
            balancer: OTHER_CLIENT,
            ..Self::new(family)
        }
    }

    fn start(self) -> Result<Site> {
        let lab = Lab::new()?;
        (self.set_up)(&lab).context("setting the host up")?;
        let bind = (self.family)(self.bind, APP_PORT);
        let app = App::listen(&lab.host, bind)?;
        let truepeer = lab.truepeer().targets_for(bind).args(self.args);
        let allow = self.balancer.both(0).map(|addr| addr.ip().to_string());
        let truepeer = truepeer.allow(allow).start()?;
        Ok(Site {
            truepeer,
            app,
            lab,
            family: self.family,
            balancer: self.balancer,
        })
    }
}

/// In the order of dropping: the lab checks what the daemon has left.
struct Site {
    truepeer: Proc,
    app: App,
    lab: Lab,
    family: Family,
    balancer: Pair,
}

impl Site {
    fn new(family: Family) -> Result<Self> {
        Plan::new(family).start()
    }

    fn of(&self, pair: Pair, port: u16) -> SocketAddr {
        (self.family)(pair, port)
    }

    /// A connection that has moved nothing but its header.
    fn open(&self, port: u16) -> Result<Talk> {
        self.open_from(0, port)
    }

    /// Port 0 of the balancer's is any.
    fn open_from(&self, balancer_port: u16, port: u16) -> Result<Talk> {
        self.open_over(self.connect(balancer_port)?, port)
    }

    fn open_over(&self, balancer: TcpStream, port: u16) -> Result<Talk> {
        let client = self.of(CLIENT, port);
        let header = Version::V2.header(client, self.of(FRONT, FRONT_PORT));
        (&balancer).write_all(&header)?;
        Talk::accept(balancer, &self.app, client)
    }

    fn connect(&self, port: u16) -> Result<TcpStream> {
        let source = self.of(self.balancer, port);
        let target = self.of(HOST, TRUEPEER_PORT);
        self.balancers_netns()
            .connect_from(source, target)
            .with_context(|| format!("the balancer connects to {target}"))
    }

    fn balancers_netns(&self) -> &Netns {
        if self.balancer.v4 == BALANCER.v4 {
            &self.lab.edge
        } else {
            &self.lab.client
        }
    }

    /// A connection that is handed over.
    fn warm(&self, port: u16) -> Result<Talk> {
        let mut talk = self.open(port)?;
        talk.warm_up(&self.lab)?;
        Ok(talk)
    }

    fn kill(&mut self) -> Result<()> {
        self.truepeer.signal(Signal::KILL)?;
        self.truepeer.wait_exit()?;
        Ok(())
    }
}
