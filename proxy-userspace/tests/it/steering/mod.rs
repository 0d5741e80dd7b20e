//! Replies find their way whatever the app is bound to and however the host is set up.
//!
//! The table: a row is a test, and its name says the host and the app, as in
//! `steering::rp_filter::strict_on_the_uplink::loopback_v4::tcp`. Each row makes a host of its own, connects
//! from the edge with a header, and fails unless the app sees exactly the client's address and
//! port, under its own port, with a round trip, by the direct path and by the daemon's.

mod apps;
mod container;
mod datagrams;
pub mod devices;
pub mod elsewhere;
pub mod firewalls;
mod instances;
mod leaks;
mod others;
pub mod reuse;
mod routes;
mod rp_filter;
pub mod site;

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::scale::scaled;
use crate::lab::talk::Talk;

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
        mod $name {
            use super::*;

            #[test]
            fn tcp() -> anyhow::Result<()> {
                holds(crate::steering::$app, $set_up)
            }

            #[test]
            fn udp() -> anyhow::Result<()> {
                crate::steering::datagrams::hold(crate::steering::$app, $set_up)
            }
        }
    };
}

use {row, rows};

/// The row: an app on a host that `set_up` has changed, by the direct path; with full counts, by the daemon's too, a
/// daemon after the other.
fn holds<T>(app: Bound, set_up: impl Fn(&Lab) -> Result<T>) -> Result<()> {
    let (lab, _kept) = changed(set_up)?;
    let listening = App::listen(&lab.host, app.to)?;
    let paths = scaled(&[Path::Direct][..], &Path::BOTH);
    for &path in paths {
        holds_by([path; 2], app, &lab, &listening).with_context(|| format!("told {path:?}"))?;
        lab.leaves_no_trace()?;
    }
    Ok(())
}

/// The row of a host where the daemon has to carry what isn't to go through it.
fn falls_back<T>(app: Bound, set_up: impl Fn(&Lab) -> Result<T>) -> Result<()> {
    let (lab, _kept) = changed(set_up)?;
    let listening = App::listen(&lab.host, app.to)?;
    holds_by([Path::Direct, Path::Daemon], app, &lab, &listening)
}

/// The host of a row, and what has to stay for as long.
fn changed<T>(set_up: impl Fn(&Lab) -> Result<T>) -> Result<(Lab, T)> {
    let lab = Lab::new()?;
    let kept = set_up(&lab).context("setting the host up")?;
    Ok((lab, kept))
}

/// By what the daemon is told, and what becomes of it.
fn holds_by([told, path]: [Path; 2], app: Bound, lab: &Lab, listening: &App) -> Result<()> {
    let truepeer = lab.truepeer().targets_for(app.to).args(told.args());
    let _truepeer = truepeer.listen(services(lab)).start()?;
    // The kernel may still remember those of the other path.
    let port = app.client.port() + 10 * u16::from(told == Path::Daemon);
    let client = SocketAddr::new(app.client.ip(), port);
    sees(lab, listening, client)?;
    goes_by(path, lab, listening, client)
}

/// Not every one of these hosts has an IPv6 address.
fn services(lab: &Lab) -> Vec<SocketAddr> {
    let both = HOST.both(TRUEPEER_PORT).into_iter();
    both.filter(|addr| has(lab, addr.ip())).collect()
}

fn has(lab: &Lab, address: IpAddr) -> bool {
    let bind = || TcpListener::bind(SocketAddr::new(address, 0));
    lab.host.enter(bind).is_ok()
}

/// A connection whose balancer has the client's family, as the direct path needs it. What `sees` has
/// is of two families for clients of IPv6.
fn goes_by(path: Path, lab: &Lab, app: &App, client: SocketAddr) -> Result<()> {
    let service = HOST.like(client, TRUEPEER_PORT);
    if !has(lab, service.ip()) {
        return Ok(());
    }
    let client = SocketAddr::new(client.ip(), client.port() + 1);
    let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
    let mut talk = Talk::accept(lab.balancer_to(service, &header)?, app, client)?;
    talk.warm_up(lab, path)?;
    talk.ping_pong(4, 10_000)
}

/// The app sees `client`, and they talk.
fn sees(lab: &Lab, app: &App, client: SocketAddr) -> Result<()> {
    let mut talk = Talk::open(lab, app, client, Version::V2)?;
    talk.round_trip()
}
