//! Apps bound to every kind of address see the client.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::{App, Echo};
use crate::lab::haproxy::HaProxy;
use crate::lab::header::Version;
use crate::lab::server::{Nginx, Sshd};
use crate::lab::stream::{read_line, round_trip};

#[test]
fn bound_to_the_ipv4_wildcard() -> Result<()> {
    app_sees_clients(WILDCARD.v4(APP_PORT), &[CLIENT.v4(41000)])
}

#[test]
fn bound_to_the_ipv4_loopback() -> Result<()> {
    app_sees_clients(LOOPBACK.v4(APP_PORT), &[CLIENT.v4(41000)])
}

#[test]
fn bound_to_the_dual_stack_wildcard() -> Result<()> {
    app_sees_clients(WILDCARD.v6(APP_PORT), &CLIENT.both(41000))
}

#[test]
fn bound_to_the_ipv6_loopback() -> Result<()> {
    app_sees_clients(LOOPBACK.v6(APP_PORT), &[CLIENT.v6(41000)])
}

#[test]
fn bound_to_one_ipv4_address_of_the_host() -> Result<()> {
    app_sees_clients(HOST.v4(APP_PORT), &[CLIENT.v4(41000)])
}

#[test]
fn bound_to_one_ipv6_address_of_the_host() -> Result<()> {
    app_sees_clients(HOST.v6(APP_PORT), &[CLIENT.v6(41000)])
}

/// Both versions over both families between balancer and truepeer.
fn app_sees_clients(bind: SocketAddr, clients: &[SocketAddr]) -> Result<()> {
    for &client in clients {
        for version in Version::BOTH {
            for to in HOST.both(TRUEPEER_PORT) {
                app_sees(bind, client, version, to)
                    .with_context(|| format!("{version:?} for {client} over {to}"))?;
            }
        }
    }
    Ok(())
}

/// A lab for each: a client's port is busy until its last connection is all gone.
fn app_sees(bind: SocketAddr, client: SocketAddr, version: Version, to: SocketAddr) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bind)?;
    let _truepeer = lab.truepeer().targets_for(bind).start()?;
    let header = version.header(client, FRONT.like(client, FRONT_PORT));
    let mut balancer = lab.balancer_to(to, &header)?;
    let (mut stream, peer) = app.accept()?;
    assert_eq!(peer, client);
    balancer.write_all(b"ping\n")?;
    ensure!(read_line(&mut stream)? == "ping");
    stream.write_all(b"pong\n")?;
    ensure!(read_line(&mut balancer)? == "pong");
    Ok(())
}

#[test]
fn app_knows_its_own_port_but_not_the_hosts_address() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let client = CLIENT.v4(41000);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let _balancer = lab.balancer(&header)?;
    let local = app.accept()?.0.local_addr()?;
    assert_eq!(local.port(), APP_PORT);
    let steer = local.ip().to_string();
    ensure!(steer.starts_with("169.254.80."), "{local}");
    Ok(())
}

#[test]
fn nginx_on_the_ipv4_wildcard() -> Result<()> {
    nginx_sees(
        WILDCARD.v4(APP_PORT),
        &[(CLIENT.v4(41000), "203.0.113.9:41000")],
    )
}

#[test]
fn nginx_on_the_ipv4_loopback() -> Result<()> {
    nginx_sees(
        LOOPBACK.v4(APP_PORT),
        &[(CLIENT.v4(41000), "203.0.113.9:41000")],
    )
}

#[test]
fn nginx_on_the_dual_stack_wildcard() -> Result<()> {
    // nginx writes what its socket says, mapped as it is
    let clients = [
        (CLIENT.v4(41000), "::ffff:203.0.113.9:41000"),
        (CLIENT.v6(41000), "2001:db8:c::9:41000"),
    ];
    nginx_sees(WILDCARD.v6(APP_PORT), &clients)
}

#[test]
fn nginx_on_the_ipv6_loopback() -> Result<()> {
    nginx_sees(
        LOOPBACK.v6(APP_PORT),
        &[(CLIENT.v6(41000), "2001:db8:c::9:41000")],
    )
}

fn nginx_sees(bind: SocketAddr, clients: &[(SocketAddr, &str)]) -> Result<()> {
    let lab = Lab::new()?;
    let _app = Nginx::start(&lab.host, bind)?;
    let _truepeer = lab.truepeer().targets_for(bind).start()?;
    let _edge = HaProxy::start(&lab.edge, "send-proxy-v2", HOST.v4(TRUEPEER_PORT))?;
    for &(client, seen) in clients {
        let answer = lab.client.run(&format!(
            "curl -sS -g --max-time 20 --interface {} --local-port {} http://{}/",
            client.ip(),
            client.port(),
            FRONT.like(client, FRONT_PORT)
        ))?;
        assert_eq!(answer.trim_end(), seen);
    }
    Ok(())
}

#[test]
fn sshd_on_the_dual_wildcards() -> Result<()> {
    sshd_logs(WILDCARD.v6(2222), &CLIENT.both(41000))
}

#[test]
fn sshd_on_the_ipv4_wildcard() -> Result<()> {
    sshd_logs(WILDCARD.v4(2222), &[CLIENT.v4(41000)])
}

#[test]
fn sshd_on_the_ipv4_loopback() -> Result<()> {
    sshd_logs(LOOPBACK.v4(2222), &[CLIENT.v4(41000)])
}

#[test]
fn sshd_on_the_ipv6_loopback() -> Result<()> {
    sshd_logs(LOOPBACK.v6(2222), &[CLIENT.v6(41000)])
}

fn sshd_logs(bind: SocketAddr, clients: &[SocketAddr]) -> Result<()> {
    let lab = Lab::new()?;
    let sshd = Sshd::start(&lab.host, bind)?;
    let _truepeer = lab.truepeer().targets_for(bind).start()?;
    let _edge = HaProxy::start(&lab.edge, "send-proxy-v2", HOST.v4(TRUEPEER_PORT))?;
    for &client in clients {
        let ip = client.ip();
        let mut visitor = lab.visitor(client, FRONT_PORT)?;
        let banner = read_line(&mut visitor)?;
        ensure!(banner.starts_with("SSH-2.0-"), "{banner}");
        sshd.wait_line(&format!("Connection from {ip} port {} on", client.port()))?;

        let front = FRONT.like(client, FRONT_PORT);
        let said = sshd.login(&lab.client, client, front, "echo $SSH_CONNECTION")?;
        ensure!(said.starts_with(&format!("{ip} ")), "{said}");
        sshd.wait_line(&format!("Accepted publickey for root from {ip} port "))?;
    }
    Ok(())
}

#[test]
fn an_echo_of_every_size() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::start(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let client = CLIENT.v4(41000);
    let header = Version::V1.header(client, FRONT.v4(FRONT_PORT));
    let mut balancer = lab.balancer(&header)?;
    for size in [1, 2, 1447, 1448, 1449, 4096, 65_535, 65_536, 65_537] {
        let bytes = vec![u8::try_from(size % 251)?; size];
        round_trip(&mut balancer, &bytes).with_context(|| format!("{size} bytes"))?;
    }
    Ok(())
}
