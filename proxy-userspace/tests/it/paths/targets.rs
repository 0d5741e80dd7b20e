//! Targets whose address the host has later than truepeer, or loses: after DHCP, with VRRP.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{CLIENT_PORT, Plan, paths};
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LATER, Pair, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::proc::Proc;
use crate::lab::talk::Talk;
use crate::lab::{Lab, poll};
use crate::steering::site::ip;

paths! {
    one_that_comes_and_goes;
    one_that_is_local_by_a_route_alone;
}

/// A host that hasn't got the target's address.
struct Waiting<'a> {
    truepeer: Proc,
    lab: Lab,
    plan: Plan<'a>,
}

impl<'a> Waiting<'a> {
    fn new(plan: Plan<'a>) -> Result<Self> {
        let lab = Lab::new()?;
        let target = (plan.family)(LATER, APP_PORT);
        let truepeer = plan.truepeer(&lab).targets_for(target).start()?;
        let host = Self {
            truepeer,
            lab,
            plan,
        };
        host.says("is not on this host")?;
        host.wait_here(false)?;
        Ok(host)
    }

    fn of(&self, pair: Pair, port: u16) -> SocketAddr {
        (self.plan.family)(pair, port)
    }

    fn says(&self, words: &str) -> Result<()> {
        let target = self.of(LATER, APP_PORT);
        let line = format!("target {target} {words}");
        self.truepeer.wait_line(&line).map(drop)
    }

    fn ip(&self, line: &str) -> Result<()> {
        let family = if self.plan.is_v4() { "-4" } else { "-6" };
        ip(&self.lab.host, &format!("{family} {line}"))
    }

    /// Waits until the daemon knows.
    fn wait_here(&self, is_here: bool) -> Result<()> {
        let words = format!("target {} is not on this host", self.of(LATER, APP_PORT));
        poll::until("the daemon to know where the target is", || {
            let paths = self.lab.shown("status")?["services"][0]["paths"].take();
            let is_known = paths.to_string().contains(&words) != is_here;
            Ok(is_known.then_some(()))
        })
    }

    /// A new connection to who listens at `bind`, by the path that it should take.
    fn talk(&self, bind: Pair, port: u16) -> Result<Talk> {
        let app = App::listen(&self.lab.host, self.of(bind, APP_PORT))?;
        let client = self.of(CLIENT, port);
        let header = Version::V2.header(client, self.of(FRONT, FRONT_PORT));
        let service = self.of(HOST, TRUEPEER_PORT);
        let balancer = self.lab.balancer_to(service, &header)?;
        let mut talk = Talk::accept(balancer, &app, client)?;
        talk.round_trip()?;
        self.lab.wait_path(&talk, self.plan.path)?;
        Ok(talk)
    }
}

fn one_that_comes_and_goes(plan: Plan<'_>) -> Result<()> {
    let host = Waiting::new(plan)?;
    let address = host.of(LATER, 0).ip();
    for round in 0..2 {
        let nodad = if plan.is_v4() { "" } else { "nodad" };
        host.ip(&format!("address add {address} dev edge {nodad}"))?;
        host.wait_here(true)?;
        let mut talk = host.talk(LATER, CLIENT_PORT + round)?;
        let prefix = if plan.is_v4() { 32 } else { 128 };
        host.ip(&format!("address del {address}/{prefix} dev edge"))?;
        host.wait_here(false)?;
        talk.round_trip().context("one that is open")?;
    }
    Ok(())
}

/// As where a whole network is one host's.
fn one_that_is_local_by_a_route_alone(plan: Plan<'_>) -> Result<()> {
    let host = Waiting::new(plan)?;
    let net = match plan.is_v4() {
        true => "192.0.2.0/24",
        false => "2001:db8:2::/64",
    };
    host.ip(&format!("route add local {net} dev lo"))?;
    host.wait_here(true)?;
    host.talk(WILDCARD, CLIENT_PORT).map(drop)
}
