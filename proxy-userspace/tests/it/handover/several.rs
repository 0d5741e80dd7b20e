//! Many connections at once, also such as have much in common.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::talk::{Side, Talk};

families! {
    hundreds;
    one_client_of_two_apps;
    a_busy_client_port;
}

/// All open before the first of them talks.
fn hundreds(family: Family) -> Result<()> {
    let site = Site::new(family)?;
    let ports = CLIENT_PORT..CLIENT_PORT + 300;
    let talks: Result<Vec<_>> = ports.map(|port| site.open(port)).collect();
    let mut talks = talks?;
    for talk in &mut talks {
        talk.ping_pong(64, 64)?;
    }
    for talk in talks.iter().step_by(50) {
        site.lab.wait_handed_over(talk)?;
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
fn one_client_of_two_apps(family: Family) -> Result<()> {
    const OTHER_PORT: u16 = 7001;
    let site = Plan::new(family).start()?;
    let lab = &site.lab;
    let (bind, listen) = (family(HOST, APP_PORT), family(HOST, OTHER_PORT));
    let app = App::listen(&lab.host, bind)?;
    let other = lab.truepeer().instance_suffix("-b").targets_for(bind);
    let _other = other.listen([listen]).start()?;
    let client = family(CLIENT, CLIENT_PORT);
    let header = Version::V2.header(client, family(FRONT, FRONT_PORT));
    let mut first = site.warm(CLIENT_PORT)?;
    // The lab asks its own daemon only, so this one may or may not be handed over.
    let mut second = Talk::accept(lab.balancer_to(listen, &header)?, &app, client)?;
    for size in [64, 10_000] {
        second.ping_pong(64, size)?;
        first.ping_pong(64, size)?;
    }
    second.transfer(&Side::BOTH, MIB).context("of the other")?;
    first.transfer(&Side::BOTH, MIB)
}

/// The second connection of the same client has another port; both are handed over.
fn a_busy_client_port(family: Family) -> Result<()> {
    let site = Site::new(family)?;
    let mut first = site.warm(CLIENT_PORT)?;
    let client = site.of(CLIENT, CLIENT_PORT);
    let header = Version::V2.header(client, site.of(FRONT, FRONT_PORT));
    let to = site.of(HOST, TRUEPEER_PORT);
    let balancer = site.lab.balancer_to(to, &header)?;
    let (app, peer) = site.app.accept()?;
    ensure!(peer.ip() == client.ip() && peer != client, "{peer}");
    let mut second = Talk { balancer, app };
    second.warm_up(&site.lab)?;
    first.ping_pong(8, 1000)?;
    second.transfer(&Side::BOTH, MIB)?;
    first.ping_pong(8, 1000)?;
    first.transfer(&Side::BOTH, MIB)
}
