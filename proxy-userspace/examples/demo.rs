//! `cargo xtask demo`: what an application sees without truepeer and with it.
//!
//! A real HAProxy stands in front of a real nginx, in throw-away namespaces. The same clients come
//! twice: straight from HAProxy to nginx, and by truepeer.

#[expect(dead_code, reason = "the tests' lab offers more than a demo needs")]
#[path = "../tests/it/lab/mod.rs"]
mod lab;

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab,
    addr::{APP_PORT, BALANCER, CLIENT, FRONT_PORT, HOST, OTHER_CLIENT, TRUEPEER_PORT, WILDCARD},
    haproxy::HaProxy,
    netns::Netns,
    server::Nginx,
};

fn main() -> Result<()> {
    let lab = Lab::new()?;
    let clients = [CLIENT.both(41001), OTHER_CLIENT.both(41002)].concat();
    println!(
        "clients -> HAProxy at {} -> nginx at {}\n",
        BALANCER.v4, HOST.v4
    );

    let app = Nginx::start(&lab.host, WILDCARD.v4(APP_PORT))?;
    let without = visits(&lab, "", HOST.v4(APP_PORT), &clients)?;
    let before = Settings::of(&lab.host)?;
    // From here on only an application bound to loopback, which nobody reaches but by truepeer.
    drop(app);
    let _app4 = Nginx::start(&lab.host, lab::addr::LOOPBACK.v4(APP_PORT))?;
    let _app6 = Nginx::start(&lab.host, lab::addr::LOOPBACK.v6(APP_PORT))?;
    let truepeer = lab.truepeer().start()?;
    let with = visits(&lab, "send-proxy-v2", HOST.v4(TRUEPEER_PORT), &clients)?;
    let during = Settings::of(&lab.host)?;
    drop(truepeer);
    lab.no_device_left()?;

    println!(
        "{:<26}{:<34}nginx saw, with truepeer",
        "client", "nginx saw, without truepeer"
    );
    for ((client, without), with) in clients.iter().zip(&without).zip(&with) {
        println!("{:<26}{without:<34}{with}", client.to_string());
        ensure!(*with == seen_as(client), "nginx saw {with}, not {client}");
    }
    println!();
    before.compare(&during, "while truepeer ran")?;
    before.compare(&Settings::of(&lab.host)?, "after it ended")
}

/// What nginx answers to each client, by a HAProxy of its own.
fn visits(lab: &Lab, options: &str, to: SocketAddr, clients: &[SocketAddr]) -> Result<Vec<String>> {
    let _edge = HaProxy::start(&lab.edge, options, to)?;
    clients.iter().map(|client| visit(lab, *client)).collect()
}

fn visit(lab: &Lab, client: SocketAddr) -> Result<String> {
    let mut stream = lab.visitor(client, FRONT_PORT)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let seen = answer.lines().last().context("nginx gave no answer")?;
    Ok(seen.to_owned())
}

/// nginx writes IPv6 without brackets.
fn seen_as(client: &SocketAddr) -> String {
    format!("{}:{}", client.ip(), client.port())
}

/// What other tools for this job change.
struct Settings([(&'static str, Vec<String>); 3]);

impl Settings {
    fn of(host: &Netns) -> Result<Self> {
        let lines = |commands: [&str; 2]| -> Result<Vec<String>> {
            let text = commands.map(|command| host.run(command));
            let [first, second] = text;
            let text = first? + &second?;
            // What comes and goes with truepeer's own device is not the host's.
            Ok(text
                .lines()
                .filter(|line| !line.contains("truepeer"))
                .map(str::to_owned)
                .collect())
        };
        Ok(Self([
            ("ip rules", lines(["ip -4 rule show", "ip -6 rule show"])?),
            (
                "routes",
                lines(["ip -4 route show table all", "ip -6 route show table all"])?,
            ),
            ("nftables", lines(["nft list ruleset", "true"])?),
        ]))
    }

    fn compare(&self, other: &Self, when: &str) -> Result<()> {
        for ((what, before), (_, now)) in self.0.iter().zip(&other.0) {
            ensure!(
                before == now,
                "{what} changed {when}: {before:?} became {now:?}"
            );
            println!("{what} {when}: untouched");
        }
        Ok(())
    }
}
