//! Health checks get through to the app, as the balancer's own connections, and go red without one.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use truepeer::header::{Command, Header, Version};

use super::cell::header;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::dnsdist::Dnsdist;
use crate::lab::haproxy::{HaProxy, Health, Options};
use crate::lab::path::Path;
use crate::lab::proc::Proc;
use crate::lab::sender::NginxStream;
use crate::lab::server::Nginx;
use crate::lab::service::{Serve, Service};
use crate::lab::stream::read_line;
use crate::lab::varnish::Varnish;
use crate::lab::wire::{Connection, Wire};
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
        sender: "HAProxy 3.0",
        setting: "send-proxy-v2 set-proxy-v2-tlv-fmt(0xE1) lab check-send-proxy",
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
    Row {
        sender: "nginx, stream",
        setting: "proxy_protocol on, max_fails",
        sent: "v1, the client's",
    },
];

#[test]
fn haproxy_v1() -> Result<()> {
    by_both_paths(|watched| haproxy(watched, &ROWS[0], &Options::tcp("")))
}

/// [V2-6] [S-5]
#[test]
fn haproxy_v2() -> Result<()> {
    by_both_paths(|watched| haproxy(watched, &ROWS[1], &Options::tcp("")))
}

/// [V2-6] With a TLV behind LOCAL.
#[test]
fn haproxy_v2_tlv() -> Result<()> {
    by_both_paths(|watched| haproxy(watched, &ROWS[2], &Options::newer("")?))
}

#[test]
fn varnish_v1() -> Result<()> {
    by_both_paths(|watched| varnish(watched, &ROWS[3], 1))
}

/// [V2-6]
#[test]
fn varnish_v2() -> Result<()> {
    by_both_paths(|watched| varnish(watched, &ROWS[4], 2))
}

/// [V2-6]
#[test]
fn dnsdist_tcp() -> Result<()> {
    by_both_paths(|mut watched| {
        let app = watched.app(dns::serve)?;
        // starts only with a server that is up
        let dnsdist = Dnsdist::start(&watched.lab.edge, HOST.v4(TRUEPEER_PORT))?;
        watched.wait_checks(&ROWS[5], 2)?;
        drop(app);
        dnsdist.wait_line("as 'down'").map(drop)
    })
}

/// It has no checks of its own, but finds out by the connections that fail.
#[test]
fn nginx_stream() -> Result<()> {
    by_both_paths(|mut watched| {
        let client = CLIENT.v4(41000);
        let app = watched.app(smtp::serve)?;
        let nginx = NginxStream::start(&watched.lab.edge, HOST.v4(TRUEPEER_PORT))?;
        let mut visitor = watched.lab.visitor(client, FRONT_PORT)?;
        assert_eq!(smtp::greeted(&read_line(&mut visitor)?)?, client);
        let sent = watched.wire.connections()?.first().map(Connection::bytes);
        let sent = sent.context("a connection")?;
        let header = header(&sent)?.context("a whole header")?;
        assert_eq!(format!("{}, the client's", header.version), ROWS[6].sent);
        assert_eq!(header.endpoints.map(|ends| ends.source), Some(client));
        drop((visitor, app));
        poll::until("a connection that is refused", || {
            let mut visitor = watched.lab.visitor(CLIENT.v4(0), FRONT_PORT)?;
            let failed = read_line(&mut visitor).is_err();
            Ok((failed && nginx.has_said("connect() failed (111")).then_some(()))
        })
    })
}

/// Whether anybody listens is said at the balancer's SYN, so the path makes no difference.
fn by_both_paths(check: impl Fn(Watched) -> Result<()>) -> Result<()> {
    for path in Path::BOTH {
        check(Watched::new(path)?).with_context(|| format!("by the path {path:?}"))?;
    }
    Ok(())
}

/// HAProxy, which wants to read a greeting and not only to connect.
fn haproxy(mut watched: Watched, row: &Row, options: &Options<'_>) -> Result<()> {
    let app = watched.app(smtp::serve)?;
    let server = format!("{} check inter 200ms", row.setting);
    let options = Options {
        server: &server,
        more: "    option tcp-check\n    tcp-check expect string ESMTP\n    timeout check 10s",
        ..options.clone()
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
    })?;
    drop(app);
    // L4CON: refused, and not somewhere later
    poll::until("the app to be found down", || {
        let health = haproxy.health()?;
        Ok((health.status == "DOWN" && health.last_check.ends_with("L4CON")).then_some(()))
    })
}

/// Varnish, whose probe is an HTTP request.
fn varnish(mut watched: Watched, row: &Row, version: u8) -> Result<()> {
    let app = Nginx::start(&watched.lab.host, WILDCARD.v6(APP_PORT))?;
    let _varnish = Varnish::start(&watched.lab.edge, version, HOST.v4(TRUEPEER_PORT))?;
    watched.wait_checks(row, CHECKS)?;
    let url = format!("http://{}{}", FRONT.v4(FRONT_PORT), Varnish::HEALTH);
    let curl = |options| {
        let line = format!("curl -sS {options} --max-time 20 {url}");
        watched.lab.client.run(&line)
    };
    curl("--fail")?;
    drop(app);
    poll::until("the app to be found down", || {
        let said = curl("-o /dev/null -w %{http_code}")?;
        Ok((said == "503").then_some(()))
    })
}

struct Watched {
    wire: Wire,
    _truepeer: Proc,
    lab: Lab,
}

impl Watched {
    fn new(path: Path) -> Result<Self> {
        let lab = Lab::new()?;
        Ok(Self {
            _truepeer: lab.truepeer().args(path.args()).start()?,
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
