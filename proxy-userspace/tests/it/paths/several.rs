//! Many connections at once, also such as have much in common.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{CLIENT_PORT, MIB, Plan, paths};
use crate::datagrams::ways::with_another_address;
use crate::lab::addr::{APP_PORT, HOST, LATER, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::talk::{Side, Talk};

paths! {
    hundreds;
    one_client_of_two_apps;
    a_busy_client_port;
    two_listeners_of_a_port;
}

/// All open before the first of them talks.
fn hundreds(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let ports = CLIENT_PORT..CLIENT_PORT + 300;
    let talks: Result<Vec<_>> = ports.map(|port| site.open(port)).collect();
    let mut talks = talks?;
    for talk in &mut talks {
        talk.ping_pong(64, 64)?;
    }
    for talk in talks.iter().step_by(50) {
        site.lab.wait_path(talk, site.path)?;
    }
    for talk in &mut talks {
        talk.ping_pong(4, 2000)?;
    }
    let open = site.lab.counts()?["open"].take();
    ensure!(open == 300, "{open} of 300 are open");
    for talk in talks {
        talk.close(Side::Balancer)?;
    }
    site.lab.wait_ended(&json!({ "closed": 300 }))
}

/// From the same address and port, through a daemon for each app.
fn one_client_of_two_apps(plan: Plan<'_>) -> Result<()> {
    const OTHER_PORT: u16 = 7001;
    let site = plan.start()?;
    let lab = &site.lab;
    let (bind, listen) = (site.of(HOST, APP_PORT), site.of(HOST, OTHER_PORT));
    let app = App::listen(&lab.host, bind)?;
    let other = plan.truepeer(lab).instance_suffix("-b").targets_for(bind);
    let _other = other.listen([listen]).start()?;
    let client = site.client(CLIENT_PORT);
    let header = site.header(Version::V2, CLIENT_PORT);
    let mut first = site.warm(CLIENT_PORT)?;
    // The lab asks its own daemon only, so by which path this one goes isn't looked at.
    let mut second = Talk::accept(lab.balancer_to(listen, &header)?, &app, client)?;
    for size in [64, 10_000] {
        second.ping_pong(64, size)?;
        first.ping_pong(64, size)?;
    }
    second.transfer(&Side::BOTH, MIB).context("of the other")?;
    first.transfer(&Side::BOTH, MIB)
}

/// The second connection of the same client has another port, or reaches the app at another address;
/// whichever path it takes.
fn a_busy_client_port(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut first = site.warm(CLIENT_PORT)?;
    let client = site.client(CLIENT_PORT);
    let header = site.header(Version::V2, CLIENT_PORT);
    let balancer = site.lab.balancer_to(site.service(), &header)?;
    let (app, peer) = site.app.accept()?;
    let (one, other) = (first.app.local_addr()?, app.local_addr()?);
    ensure!(peer.ip() == client.ip() && (peer, other) != (client, one));
    let mut second = Talk { balancer, app };
    second.ping_pong(8, 1000)?;
    first.ping_pong(8, 1000)?;
    second.transfer(&Side::BOTH, MIB)?;
    first.ping_pong(8, 1000)?;
    first.transfer(&Side::BOTH, MIB)
}

/// One at all addresses, one at one of them.
fn two_listeners_of_a_port(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        args: &["--listen", "0.0.0.0:7000", "--listen", "[::]:7000"],
        set_up: &with_another_address,
        ..plan
    }
    .start()?;
    for (port, at) in (CLIENT_PORT..).zip([HOST, LATER]) {
        let header = site.header(Version::V2, port);
        let balancer = site.lab.balancer_to(site.of(at, TRUEPEER_PORT), &header)?;
        let mut talk = Talk::accept(balancer, &site.app, site.client(port))?;
        talk.round_trip()?;
        site.lab.wait_path(&talk, site.path)?;
    }
    Ok(())
}
