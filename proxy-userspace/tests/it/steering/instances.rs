//! Several instances on one host; of one target port, each needs its own.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{CLIENT_PORT, Talk};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;

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

/// More instances than have ever run side by side here, some of them just ended: the kernel may still
/// be taking their devices down.
#[test]
fn a_dozen_instances_at_once_and_again() -> Result<()> {
    let lab = Lab::new()?;
    let suffixes: Vec<_> = (0..12).map(|number| format!("-{number}x")).collect();
    for _ in 0..2 {
        let start = |(port, suffix): (u16, &String)| {
            let truepeer = lab.truepeer().by_daemon().instance_suffix(suffix);
            truepeer.listen([HOST.v4(port)]).start()
        };
        let running: Result<Vec<_>> = (TRUEPEER_PORT..).zip(&suffixes).map(start).collect();
        for mut truepeer in running? {
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
