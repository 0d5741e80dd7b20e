//! Replies find their way whatever the app is bound to and however the host is set up.
//!
//! The table: a row is a test, and its name says the host and the app, as in
//! `steering::rp_filter::strict_on_all::loopback_v4`. Each row makes a host of its own, connects
//! from the edge with a header, and fails unless the app sees exactly the client's address and
//! port, under its own port, with a round trip.

mod apps;
mod capture;
mod container;
mod devices;
mod elsewhere;
mod firewalls;
mod instances;
mod leaks;
mod others;
mod reuse;
mod routes;
mod rp_filter;
mod site;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::payload::Payload;
use crate::lab::stream::expect;

/// A port that no kernel picks by itself.
const CLIENT_PORT: u16 = 20_300;

/// A bind address, and a client that it hears.
#[derive(Clone, Copy, Debug)]
struct Bound {
    to: SocketAddr,
    client: SocketAddr,
}

const WILDCARD_V4: Bound = v4(WILDCARD.v4(APP_PORT));
const LOOPBACK_V4: Bound = v4(LOOPBACK.v4(APP_PORT));
const ADDRESS_V4: Bound = v4(HOST.v4(APP_PORT));
/// An IPv4 client of an app bound to `[::]`.
const DUAL_V4: Bound = v4(WILDCARD.v6(APP_PORT));
const WILDCARD_V6: Bound = v6(WILDCARD.v6(APP_PORT));
const LOOPBACK_V6: Bound = v6(LOOPBACK.v6(APP_PORT));
const ADDRESS_V6: Bound = v6(HOST.v6(APP_PORT));

const fn v4(to: SocketAddr) -> Bound {
    let client = CLIENT.v4(CLIENT_PORT);
    Bound { to, client }
}

const fn v6(to: SocketAddr) -> Bound {
    let client = CLIENT.v6(CLIENT_PORT);
    Bound { to, client }
}

/// Rows of hosts for apps, in a file that imports [`holds`]: `host: set_up => APP…;`, each a test named `host::app`.
macro_rules! rows {
    ($($(#[$meta:meta])* $host:ident: $set_up:expr => $($app:ident)*;)*) => { $(
        $(#[$meta])*
        mod $host {
            use super::*;
            $(crate::steering::row!($app, $set_up);)*
        }
    )* };
}

/// One row, for an app by its name.
macro_rules! row {
    (wildcard_v4, $set_up:expr) => {
        crate::steering::row!(wildcard_v4, WILDCARD_V4, $set_up);
    };
    (loopback_v4, $set_up:expr) => {
        crate::steering::row!(loopback_v4, LOOPBACK_V4, $set_up);
    };
    (address_v4, $set_up:expr) => {
        crate::steering::row!(address_v4, ADDRESS_V4, $set_up);
    };
    (dual_v4, $set_up:expr) => {
        crate::steering::row!(dual_v4, DUAL_V4, $set_up);
    };
    (wildcard_v6, $set_up:expr) => {
        crate::steering::row!(wildcard_v6, WILDCARD_V6, $set_up);
    };
    (loopback_v6, $set_up:expr) => {
        crate::steering::row!(loopback_v6, LOOPBACK_V6, $set_up);
    };
    (address_v6, $set_up:expr) => {
        crate::steering::row!(address_v6, ADDRESS_V6, $set_up);
    };
    ($name:ident, $app:ident, $set_up:expr) => {
        #[test]
        fn $name() -> anyhow::Result<()> {
            holds(crate::steering::$app, $set_up)
        }
    };
}

use {row, rows};

/// The row: an app on a host that `set_up` has changed.
fn holds(app: Bound, set_up: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::new()?;
    set_up(&lab).context("setting the host up")?;
    let listening = App::listen(&lab.host, app.to)?;
    let truepeer = lab.truepeer().targets_for(app.to);
    // Not every one of these hosts has an IPv6 address.
    let _truepeer = truepeer.listen([HOST.v4(TRUEPEER_PORT)]).start()?;
    sees(&lab, &listening, app.client)
}

/// The app sees `client`, and they talk.
fn sees(lab: &Lab, app: &App, client: SocketAddr) -> Result<()> {
    let mut talk = Talk::open(lab, app, client, Version::V2)?;
    talk.round_trip()
}

/// Both ends of a connection from the balancer to an app.
struct Talk {
    balancer: TcpStream,
    app: TcpStream,
}

impl Talk {
    /// Fails unless the app sees `client`, and the connection under the app's own port.
    fn open(lab: &Lab, app: &App, client: SocketAddr, version: Version) -> Result<Self> {
        let balancer = lab.balancer(&version.header(client, FRONT.like(client, FRONT_PORT)))?;
        Self::accept(balancer, app, client)
    }

    fn accept(balancer: TcpStream, app: &App, client: SocketAddr) -> Result<Self> {
        let (app, peer) = app.accept()?;
        ensure!(peer == client, "the app saw {peer}, not {client}");
        let local = app.local_addr()?;
        ensure!(
            local.port() == APP_PORT,
            "the app is at {local} all at once"
        );
        Ok(Self { balancer, app })
    }

    fn round_trip(&mut self) -> Result<()> {
        self.balancer.write_all(b"ping")?;
        expect(&mut self.app, b"ping").context("to the app")?;
        self.app.write_all(b"pong")?;
        expect(&mut self.balancer, b"pong").context("from the app")
    }

    /// Both ways at once, to the end of both streams.
    fn bulk(self) -> Result<()> {
        const LENGTH: usize = 8 << 20;
        let (up, down) = (&Payload::new(1), &Payload::new(2));
        let Self { balancer, app } = &self;
        let send = |mut to: &TcpStream, payload: &Payload| -> Result<()> {
            payload.send(&mut to, LENGTH)?;
            Ok(to.shutdown(std::net::Shutdown::Write)?)
        };
        thread::scope(|scope| {
            let sent = [
                scope.spawn(move || send(balancer, up)),
                scope.spawn(move || send(app, down)),
            ];
            let at_app = scope.spawn(move || up.receive(&mut &*app, LENGTH));
            down.receive(&mut &*balancer, LENGTH).context("downwards")?;
            at_app.join().expect("no panic").context("upwards")?;
            for sender in sent {
                sender.join().expect("no panic")?;
            }
            Ok(())
        })
    }
}
