//! The app still speaks with the client, whatever it is bound to.

use anyhow::Result;

use super::{CLIENT_PORT, Family, MIB, Plan, families};
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::talk::{Side, Talk};

families! {
    on_the_wildcard;
    on_loopback;
    on_one_address;
}

fn on_the_wildcard(family: Family) -> Result<()> {
    goes_on(family, WILDCARD)
}

fn on_loopback(family: Family) -> Result<()> {
    goes_on(family, LOOPBACK)
}

fn on_one_address(family: Family) -> Result<()> {
    goes_on(family, HOST)
}

fn goes_on(family: Family, bind: Pair) -> Result<()> {
    let mut plan = Plan::new(family);
    plan.bind = bind;
    let site = plan.start()?;
    let mut talk = site.open(CLIENT_PORT)?;
    let before = (talk.app.peer_addr()?, talk.app.local_addr()?);
    talk.warm_up(&site.lab)?;
    talk.ping_pong(8, 1000)?;
    assert_eq!(before, (talk.app.peer_addr()?, talk.app.local_addr()?));
    assert_eq!(before.0, site.of(CLIENT, CLIENT_PORT));
    talk.transfer(&Side::BOTH, MIB)
}

/// To such an app the client is `::ffff:…`.
#[test]
fn an_ipv4_client_of_an_app_on_both() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let client = CLIENT.v4(CLIENT_PORT);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let balancer = lab.balancer_to(HOST.v4(TRUEPEER_PORT), &header)?;
    let mut talk = Talk::accept(balancer, &app, client)?;
    talk.warm_up(&lab)?;
    talk.transfer(&Side::BOTH, MIB)
}
