//! Several instances on one host; of one target port, each needs its own.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{CLIENT_PORT, Talk, datagrams};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::header::Version;
use crate::lab::leaks::{Leaks, Watched};
use crate::lab::scale::scaled;
use crate::lab::truepeer::Truepeer;

const OTHER_PORT: u16 = 7001;

#[test]
fn same_port_at_two_addresses_v4() -> Result<()> {
    same_port_at_two_addresses(Pair::v4)
}

#[test]
fn same_port_at_two_addresses_v6() -> Result<()> {
    same_port_at_two_addresses(Pair::v6)
}

/// Each instance reaches its own app, from the same client's address and port at the same time.
fn same_port_at_two_addresses(family: fn(Pair, u16) -> SocketAddr) -> Result<()> {
    let lab = Lab::new()?;
    let client = family(CLIENT, CLIENT_PORT);
    let (at_lo, at_uplink) = (family(LOOPBACK, APP_PORT), family(HOST, APP_PORT));
    let apps = [
        App::listen(&lab.host, at_lo)?,
        App::listen(&lab.host, at_uplink)?,
    ];
    let _one = lab.truepeer().targets_for(at_lo).start()?;
    let other = lab.truepeer().instance_suffix("-b").targets_for(at_uplink);
    let _other = other.listen([HOST.v4(OTHER_PORT)]).start()?;
    let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
    let mut talks = [
        Talk::accept(lab.balancer(&header)?, &apps[0], client)?,
        Talk::accept(
            lab.balancer_to(HOST.v4(OTHER_PORT), &header)?,
            &apps[1],
            client,
        )?,
    ];
    for talk in &mut talks {
        talk.round_trip()?;
    }
    apps.iter().try_for_each(App::saw_nobody)
}

#[test]
fn same_port_at_two_addresses_v4_udp() -> Result<()> {
    datagrams_at_two_addresses(Pair::v4)
}

#[test]
fn same_port_at_two_addresses_v6_udp() -> Result<()> {
    datagrams_at_two_addresses(Pair::v6)
}

/// By turns, so that each instance hears the client while the other one knows him, too.
fn datagrams_at_two_addresses(family: fn(Pair, u16) -> SocketAddr) -> Result<()> {
    let lab = Lab::new()?;
    let (at_lo, at_uplink) = (family(LOOPBACK, APP_PORT), family(HOST, APP_PORT));
    let listen = |at| Echo::listen(&lab.host, at, Kind::Unconnected);
    let apps = [listen(at_lo)?, listen(at_uplink)?];
    let leaks = Leaks::watch(&lab.edge)?;
    let truepeer = |at| lab.truepeer().args(Framing::V2.args()).targets_for(at);
    let _one = truepeer(at_lo).start()?;
    let other = truepeer(at_uplink).instance_suffix("-b");
    let _other = other.listen(HOST.both(OTHER_PORT)).start()?;
    let balancers = [
        datagrams::balancer(&lab, family(HOST, TRUEPEER_PORT))?,
        datagrams::balancer(&lab, family(HOST, OTHER_PORT))?,
    ];
    for words in [&b"hello"[..], b"again", &[7; 4000]] {
        for (balancer, app) in balancers.iter().zip(&apps) {
            datagrams::asks(balancer, app, family(CLIENT, CLIENT_PORT), words)?;
        }
    }
    apps.iter().try_for_each(Echo::saw_nobody)?;
    leaks.saw_none()
}

#[test]
fn a_dozen_instances_at_once_and_again() -> Result<()> {
    let lab = Lab::new()?;
    a_dozen(2, &lab.truepeer().by_daemon(), |_| Ok(()))
}

/// Of one app, which hears the clients of each; again with full counts.
#[test]
fn a_dozen_instances_at_once_udp() -> Result<()> {
    let lab = Watched::new()?;
    let at = HOST.v4(APP_PORT);
    let echo = Echo::listen(&lab.host, at, Kind::Unconnected)?;
    let truepeer = lab.truepeer().args(Framing::V2.args()).targets_for(at);
    a_dozen(scaled(1, 2), &truepeer, |service| {
        let client = CLIENT.v4(CLIENT_PORT + service.port());
        datagrams::asks(
            &datagrams::balancer(&lab, service)?,
            &echo,
            client,
            b"hello",
        )
    })
}

/// More instances than have ever run side by side here, some of them just ended: the kernel may still
/// be taking their devices down.
fn a_dozen(
    rounds: usize,
    truepeer: &Truepeer,
    talk: impl Fn(SocketAddr) -> Result<()>,
) -> Result<()> {
    let suffixes: Vec<_> = (0..12).map(|number| format!("-{number}x")).collect();
    let services: Vec<_> = (TRUEPEER_PORT..)
        .map(|port| HOST.v4(port))
        .take(12)
        .collect();
    for _ in 0..rounds {
        let start = |(service, suffix): (&SocketAddr, &String)| {
            let truepeer = truepeer.clone().instance_suffix(suffix);
            truepeer.listen([*service]).start()
        };
        let running: Vec<_> = services
            .iter()
            .zip(&suffixes)
            .map(start)
            .collect::<Result<_>>()?;
        services.iter().try_for_each(|service| talk(*service))?;
        for mut truepeer in running {
            truepeer.signal(Signal::TERM)?;
            ensure!(
                truepeer.wait_exit()?.code() == Some(0),
                "{:?}",
                truepeer.log()
            );
        }
    }
    Ok(())
}
