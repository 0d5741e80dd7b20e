//! Others on the host: their sockets hear no client, and theirs come by no service.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, Plan, paths};
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::talk::Talk;

paths! {
    a_listener_at_a_steer_address_hears_nobody;
    a_steer_address_is_no_way_to_a_service;
    a_steer_address_is_no_way_to_the_application;
    a_spoofed_connection_comes_to_no_service;
}

const OTHER_PORT: u16 = 7001;

fn a_listener_at_a_steer_address_hears_nobody(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let steered = site.open(CLIENT_PORT)?.app.local_addr()?;
    let stranger = App::listen(&site.lab.host, steered)?;
    for port in (CLIENT_PORT + 1..).take(8) {
        site.open(port)?.round_trip()?;
    }
    // Not even when the application is gone.
    let early = site.connect(0)?;
    site.app.stop()?;
    let talk = site.open_over(early, CLIENT_PORT);
    ensure!(talk.is_err(), "somebody was reached");
    stranger.saw_nobody()
}

fn a_steer_address_is_no_way_to_a_service(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let of = |pair, port| (plan.family)(pair, port);
    let app = App::listen(&lab.host, of(LOOPBACK, APP_PORT))?;
    let listen = WILDCARD.both(TRUEPEER_PORT);
    let _truepeer = plan.truepeer(&lab).listen(listen).start()?;
    let header = Version::V2.header(of(CLIENT, CLIENT_PORT), of(FRONT, FRONT_PORT));
    let balancer = lab.balancer_to(of(HOST, TRUEPEER_PORT), &header)?;
    let talk = Talk::accept(balancer, &app, of(CLIENT, CLIENT_PORT))?;
    let steered = talk.app.local_addr()?.ip();
    let of_host = of(WILDCARD, 0);
    refused(&lab.host, of_host, SocketAddr::new(steered, TRUEPEER_PORT))
}

/// Also once clients have come that way.
fn a_steer_address_is_no_way_to_the_application(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let steered = site.warm(CLIENT_PORT)?.app.local_addr()?;
    for pair in [WILDCARD, HOST] {
        let from = site.of(pair, 0);
        refused(&site.lab.host, from, steered).with_context(|| format!("from {from}"))?;
    }
    site.app.saw_nobody()
}

/// Whoever it lets in.
fn a_spoofed_connection_comes_to_no_service(plan: Plan<'_>) -> Result<()> {
    let allow = &["0.0.0.0/0", "::/0"];
    let lab = Lab::new()?;
    let of = |pair, port| (plan.family)(pair, port);
    // It would be refused beside the other one.
    let (first, other) = (of(HOST, TRUEPEER_PORT), of(HOST, OTHER_PORT));
    let chained = lab.truepeer().instance_suffix("-b");
    let chained = chained.targets_for(first).listen([other]);
    let chained = chained.args(plan.told.args()).start()?;
    let site = Plan { allow, ..plan }.start_in(lab)?;
    // Ends before its host does.
    let _chained = chained;
    refused(&site.lab.edge, site.of(BALANCER, 0), other)?;
    site.open(CLIENT_PORT)?.round_trip()?;
    site.app.saw_nobody()
}

fn refused(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let attempt = netns.connect_from(from, to);
    let kind = attempt.err().map(|error| error.kind());
    let refused = kind == Some(ErrorKind::ConnectionRefused);
    ensure!(refused, "{kind:?}");
    Ok(())
}
