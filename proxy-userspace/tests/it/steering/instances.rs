//! Several services with one target port: each needs its own.

use std::net::SocketAddr;

use anyhow::Result;

use super::{CLIENT_PORT, Talk};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair};
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
