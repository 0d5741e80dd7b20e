//! The lab works without truepeer: whatever fails elsewhere isn't the lab's fault.

use anyhow::{Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, WILDCARD};
use crate::lab::app::{App, Echo};
use crate::lab::haproxy::{HaProxy, MAPPED_PORT};
use crate::lab::header::Version;
use crate::lab::sender::NginxStream;
use crate::lab::server::{Nginx, Sshd};
use crate::lab::stream::{expect, read_greeting, read_line, round_trip};

#[test]
fn clients_reach_the_host_directly() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, WILDCARD.v6(APP_PORT))?;
    for client in CLIENT.both(41000) {
        let mut stream = lab
            .client
            .connect_from(client, HOST.like(client, APP_PORT))?;
        assert_eq!(read_greeting(&mut stream)?, client);
        round_trip(&mut stream, b"hello")?;
    }
    Ok(())
}

/// Or else what is tested with cards would be tested without.
#[test]
fn cards_join_the_balancer_and_the_host_where_there_are_some() -> Result<()> {
    let lab = Lab::new()?;
    let are_cards = std::env::var_os("TRUEPEER_CARDS").is_some();
    for (netns, device) in [(&lab.edge, "host"), (&lab.host, "edge")] {
        let shown = netns.run(&format!("ip -details link show {device}"))?;
        assert_ne!(shown.contains(" veth "), are_cards, "{shown}");
    }
    Ok(())
}

#[test]
fn haproxy_sends_the_headers_that_the_other_tests_write() -> Result<()> {
    for (options, version) in [("send-proxy", Version::V1), ("send-proxy-v2", Version::V2)] {
        let lab = Lab::new()?;
        let app = App::listen(&lab.host, HOST.v4(APP_PORT))?;
        let _edge = HaProxy::start(&lab.edge, options, HOST.v4(APP_PORT))?;
        for client in CLIENT.both(41000) {
            let _visitor = lab.visitor(client, FRONT_PORT)?;
            let (mut stream, peer) = app.accept()?;
            assert_eq!(peer.ip(), BALANCER.v4);
            let front = FRONT.like(client, FRONT_PORT);
            expect(&mut stream, &version.header(client, front))?;
        }
    }
    Ok(())
}

#[test]
fn haproxy_on_a_dual_stack_socket_writes_mapped_addresses() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, HOST.v4(APP_PORT))?;
    let _edge = HaProxy::start(&lab.edge, "send-proxy", HOST.v4(APP_PORT))?;
    let _visitor = lab.visitor(CLIENT.v4(41000), MAPPED_PORT)?;
    let header = read_line(&mut app.accept()?.0)?;
    ensure!(
        header.starts_with("PROXY TCP6 ::ffff:203.0.113.9 "),
        "{header}"
    );
    Ok(())
}

#[test]
fn nginx_stream_sends_v1() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, HOST.v4(APP_PORT))?;
    let _edge = NginxStream::start(&lab.edge, HOST.v4(APP_PORT))?;
    for client in CLIENT.both(41000) {
        let _visitor = lab.visitor(client, FRONT_PORT)?;
        let front = FRONT.like(client, FRONT_PORT);
        expect(&mut app.accept()?.0, &Version::V1.header(client, front))?;
    }
    Ok(())
}

#[test]
fn without_truepeer_the_apps_see_the_balancer() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Nginx::start(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _edge = HaProxy::start(&lab.edge, "", HOST.v4(APP_PORT))?;
    let seen = lab
        .client
        .run("curl -sS --max-time 20 --interface 203.0.113.9 http://203.0.113.1:443/")?;
    ensure!(seen.starts_with("::ffff:198.51.100.1:"), "{seen}");

    let sshd = Sshd::start(&lab.host, WILDCARD.v4(2222))?;
    let target = HOST.v4(2222);
    let said = sshd.login(&lab.client, CLIENT.v4(0), target, "echo $SSH_CONNECTION")?;
    ensure!(said.starts_with("203.0.113.9 "), "{said}");
    sshd.wait_line("Accepted publickey for root from 203.0.113.9 port ")?;
    Ok(())
}
