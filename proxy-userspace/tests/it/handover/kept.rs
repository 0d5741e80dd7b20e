//! Connections that stay with the daemon.

use anyhow::{Result, ensure};

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, Pair, TRUEPEER_PORT, WILDCARD};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::talk::{Side, Talk};

families! {
    all_if_it_is_off;
    those_of_two_families;
    those_that_say_nothing;
}

fn all_if_it_is_off(family: Family) -> Result<()> {
    let mut plan = Plan::new(family);
    plan.args = &["--handover", "off"];
    let site = plan.start()?;
    let talk = site.open(CLIENT_PORT)?;
    stays(&site.lab, talk)
}

/// `family` is the balancer's.
fn those_of_two_families(family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let balancer = family(HOST, TRUEPEER_PORT);
    let other: Family = if balancer.is_ipv4() {
        Pair::v6
    } else {
        Pair::v4
    };
    let client = other(CLIENT, CLIENT_PORT);
    let header = Version::V2.header(client, other(FRONT, FRONT_PORT));
    let talk = Talk::accept(lab.balancer_to(balancer, &header)?, &app, client)?;
    stays(&lab, talk)
}

fn stays(lab: &Lab, mut talk: Talk) -> Result<()> {
    talk.ping_pong(256, 64)?;
    not_handed_over(lab, &talk)?;
    talk.ping_pong(8, 100_000)?;
    not_handed_over(lab, &talk)?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}

fn not_handed_over(lab: &Lab, talk: &Talk) -> Result<()> {
    // The app may hear of a connection before the daemon lists it.
    let shown = poll::until("the connection to be listed", || {
        let shown = lab.shown_of(talk)?;
        Ok(shown.is_object().then_some(shown))
    })?;
    ensure!(shown["handed_over"] != true, "{shown:#}");
    Ok(())
}

fn those_that_say_nothing(family: Family) -> Result<()> {
    let site = Site::new(family)?;
    let talk = site.open(CLIENT_PORT)?;
    not_handed_over(&site.lab, &talk)
}
