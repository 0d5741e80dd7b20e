//! The app still speaks with the client, whatever it is bound to.

use anyhow::Result;

use super::{CLIENT_PORT, MIB, Plan, paths};
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::talk::{Side, Talk};

paths! {
    on_the_wildcard;
    on_loopback;
    on_one_address;
}

fn on_the_wildcard(plan: Plan<'_>) -> Result<()> {
    goes_on(plan, WILDCARD)
}

fn on_loopback(plan: Plan<'_>) -> Result<()> {
    goes_on(plan, LOOPBACK)
}

fn on_one_address(plan: Plan<'_>) -> Result<()> {
    goes_on(plan, HOST)
}

fn goes_on(plan: Plan<'_>, bind: Pair) -> Result<()> {
    let site = Plan { bind, ..plan }.start()?;
    let mut talk = site.open(CLIENT_PORT)?;
    let before = (talk.app.peer_addr()?, talk.app.local_addr()?);
    talk.warm_up(&site.lab, site.path)?;
    talk.ping_pong(8, 1000)?;
    assert_eq!(before, (talk.app.peer_addr()?, talk.app.local_addr()?));
    assert_eq!(before.0, site.client(CLIENT_PORT));
    talk.transfer(&Side::BOTH, MIB)
}

/// To such an app the client is `::ffff:…`.
fn an_ipv4_client_of_an_app_on_both(path: Path) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _truepeer = lab.truepeer().args(path.args()).start()?;
    let client = CLIENT.v4(CLIENT_PORT);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let balancer = lab.balancer_to(HOST.v4(TRUEPEER_PORT), &header)?;
    let mut talk = Talk::accept(balancer, &app, client)?;
    talk.warm_up(&lab, path)?;
    talk.transfer(&Side::BOTH, MIB)
}

#[test]
fn an_ipv4_client_of_an_app_on_both_direct() -> Result<()> {
    an_ipv4_client_of_an_app_on_both(Path::Direct)
}

#[test]
fn an_ipv4_client_of_an_app_on_both_daemon() -> Result<()> {
    an_ipv4_client_of_an_app_on_both(Path::Daemon)
}
