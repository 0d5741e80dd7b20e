//! Health checks get through to the app, as the balancer's own connections.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use truepeer::header::{Command, Header, Version};

use super::cell::header;
use crate::lab::addr::{APP_PORT, BALANCER, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT, WILDCARD};
use crate::lab::dnsdist::Dnsdist;
use crate::lab::haproxy::{HaProxy, Health, Options};
use crate::lab::proc::Proc;
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
        sent: "v1, its own address",
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
    let mut watched = Watched::new()?;
    let _app = watched.app(dns::serve)?;
    // starts only with a server that is up
    let _dnsdist = Dnsdist::start(&watched.lab.edge, HOST.v4(TRUEPEER_PORT))?;
    watched.wait_checks(&ROWS[4], 2)
}

/// HAProxy, which wants to read a greeting and not only to connect.
fn haproxy(row: &Row) -> Result<()> {
    let mut watched = Watched::new()?;
    let _app = watched.app(smtp::serve)?;
    let server = format!("{} check inter 200ms", row.setting);
    let options = Options {
        more: "    option tcp-check\n    tcp-check expect string ESMTP\n    timeout check 10s",
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
    let mut watched = Watched::new()?;
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
    wire: Wire,
    _truepeer: Proc,
    lab: Lab,
}

impl Watched {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        Ok(Self {
            _truepeer: lab.truepeer().start()?,
            wire: Wire::tap(&lab.host, TRUEPEER_PORT)?,
            lab,
        })
    }

    fn app(&self, serve: Serve) -> Result<Service> {
        Service::start(&self.lab.host, WILDCARD.v6(APP_PORT), serve)
    }

    /// Waits until `count` checks were sent, all of them as the row says.
    fn wait_checks(&mut self, row: &Row, count: usize) -> Result<()> {
        poll::until("health checks", || {
            let mut whole = 0;
            for check in self.wire.connections()? {
                if let Some(header) = header(&check.bytes())? {
                    assert_eq!(kind(&header, check.source)?, row.sent);
                    whole += 1;
                }
            }
            Ok((whole >= count).then_some(()))
        })
    }
}

/// What a check's header says of whom it is for.
fn kind(header: &Header<'_>, sender: SocketAddr) -> Result<&'static str> {
    assert_eq!(sender.ip(), BALANCER.v4);
    Ok(match (header.version, header.command, header.endpoints) {
        (Version::V2, Command::Local, None) => "v2, LOCAL",
        (Version::V1, Command::Proxy, Some(ends)) if ends.source == sender => "v1, its own address",
        _ => bail!("no health check: {header:?}"),
    })
}
