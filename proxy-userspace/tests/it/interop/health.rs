//! Health checks get through to the app, as the balancer's own connections.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use truepeer::header::{Command, Header, Version};

use super::cell::header;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::dnsdist::Dnsdist;
use crate::lab::haproxy::{HaProxy, Health, Options};
use crate::lab::server::Nginx;
use crate::lab::service::{Serve, Service};
use crate::lab::varnish::Varnish;
use crate::lab::wire::Wire;
use crate::lab::{Lab, dns, poll, smtp};

/// More than HAProxy takes to believe in a server (`rise 2`) or to give it up (`fall 3`).
const CHECKS: usize = 6;

/// A sender that looks after its server.
pub struct Row {
    pub sender: &'static str,
    pub setting: &'static str,
    pub sent: &'static str,
}

pub const ROWS: &[Row] = &[
    Row {
        sender: "HAProxy",
        setting: "send-proxy check-send-proxy",
        sent: "v1, its own address",
    },
    Row {
        sender: "HAProxy",
        setting: "send-proxy-v2 check-send-proxy",
        sent: "v2, LOCAL",
    },
    Row {
        sender: "Varnish",
        setting: ".proxy_header = 1, .probe",
        sent: "v1, UNKNOWN",
    },
    Row {
        sender: "Varnish",
        setting: ".proxy_header = 2, .probe",
        sent: "v2, LOCAL",
    },
    Row {
        sender: "dnsdist, TCP",
        setting: "useProxyProtocol=true, checkTCP=true",
        sent: "v2, LOCAL",
    },
];

#[test]
fn haproxy_v1() -> Result<()> {
    haproxy(&ROWS[0])
}

/// [V2-6] [S-5]
#[test]
fn haproxy_v2() -> Result<()> {
    haproxy(&ROWS[1])
}

/// [V1-5]
#[test]
fn varnish_v1() -> Result<()> {
    varnish(&ROWS[2], 1)
}

/// [V2-6]
#[test]
fn varnish_v2() -> Result<()> {
    varnish(&ROWS[3], 2)
}

/// [V2-6]
#[test]
fn dnsdist() -> Result<()> {
    let watched = Watched::new()?;
    let _app = watched.app(dns::serve)?;
    // starts only with a server that is up
    let _dnsdist = Dnsdist::start(&watched.lab.edge, HOST.v4(TRUEPEER_PORT))?;
    watched.wait_checks(&ROWS[4], 2)
}

/// HAProxy, which wants to read a greeting and not only to connect.
fn haproxy(row: &Row) -> Result<()> {
    let watched = Watched::new()?;
    let _app = watched.app(smtp::serve)?;
    let server = format!("{} check inter 50ms", row.setting);
    let options = Options {
        more: "    option tcp-check\n    tcp-check expect string ESMTP",
        ..Options::tcp(&server)
    };
    let haproxy = HaProxy::with(&watched.lab.edge, &options, HOST.v4(TRUEPEER_PORT))?;
    watched.wait_checks(row, CHECKS)?;
    let up = Health {
        status: "UP".into(),
        last_check: "L7OK".into(),
        failed_checks: "0".into(),
    };
    poll::until("a check's end", || {
        let health = haproxy.health()?;
        // "* L7OK" while the next one is under way
        ensure!(
            health.status == up.status && health.failed_checks == up.failed_checks,
            "{health:?}"
        );
        Ok((health == up).then_some(()))
    })
}

/// Varnish, whose probe is an HTTP request.
fn varnish(row: &Row, version: u8) -> Result<()> {
    let watched = Watched::new()?;
    let _app = Nginx::start(&watched.lab.host, WILDCARD.v6(APP_PORT))?;
    let _varnish = Varnish::start(&watched.lab.edge, version, HOST.v4(TRUEPEER_PORT))?;
    watched.wait_checks(row, CHECKS)?;
    let url = format!("http://{}{}", FRONT.v4(FRONT_PORT), Varnish::HEALTH);
    watched
        .lab
        .client
        .run(&format!("curl -sS --fail --max-time 20 {url}"))?;
    Ok(())
}

struct Watched {
    wire: std::cell::RefCell<Wire>,
    _truepeer: crate::lab::proc::Proc,
    lab: Lab,
}

impl Watched {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        Ok(Self {
            _truepeer: lab.truepeer().start()?,
            wire: Wire::tap(&lab.host, TRUEPEER_PORT)?.into(),
            lab,
        })
    }

    fn app(&self, serve: Serve) -> Result<Service> {
        Service::start(&self.lab.host, WILDCARD.v6(APP_PORT), serve)
    }

    /// Waits until `count` checks were sent, all of them as the row says.
    fn wait_checks(&self, row: &Row, count: usize) -> Result<()> {
        let mut wire = self.wire.borrow_mut();
        poll::until("health checks", || {
            let sent = wire.connections()?;
            let sent: Vec<_> = sent
                .iter()
                .filter(|check| !check.segments.is_empty())
                .collect();
            for check in &sent {
                let bytes = check.bytes();
                assert_eq!(kind(&header(&bytes)?, check.source)?, row.sent);
            }
            Ok((sent.len() >= count).then_some(()))
        })
    }
}

/// What a check's header says of whom it is for.
fn kind(header: &Header<'_>, sender: SocketAddr) -> Result<&'static str> {
    assert_eq!(sender.ip(), BALANCER.v4);
    Ok(match (header.version, header.command, header.endpoints) {
        (Version::V2, Command::Local, None) => "v2, LOCAL",
        (Version::V1, Command::Proxy, None) => "v1, UNKNOWN",
        (Version::V1, Command::Proxy, Some(ends)) if ends.source == sender => "v1, its own address",
        _ => return Err(anyhow::anyhow!("{header:?}")).context("no health check"),
    })
}
