//! One sender, one app, an IPv4 and an IPv6 client.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use truepeer::header::{Endpoints, Header, Parse, Policy, parse};

use super::{App, Client, Row, contents};
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::netns::Netns;
use crate::lab::pki::Pki;
use crate::lab::proc::Proc;
use crate::lab::server::{Nginx, Sshd};
use crate::lab::service::Service;
use crate::lab::stream::read_line;
use crate::lab::wire::{Connection, Wire};
use crate::lab::{Lab, dns, smtp};

/// Where a sender stands and what it needs.
pub struct Place<'a> {
    pub netns: &'a Netns,
    pub pki: &'a Pki,
    pub to: SocketAddr,
}

pub fn check(row: &Row) -> Result<()> {
    let pki = Pki::new()?;
    for &app in row.apps {
        Cell {
            row,
            app,
            pki: &pki,
        }
        .check()
        .with_context(|| format!("{} in front of {app:?}", row.sender))?;
    }
    Ok(())
}

struct Cell<'a> {
    row: &'a Row,
    app: App,
    pki: &'a Pki,
}

impl Cell<'_> {
    fn check(&self) -> Result<()> {
        let lab = Lab::new()?;
        let app = Running::start(self.app, &lab.host)?;
        let mut allowed = vec![BALANCER];
        // who is his own balancer comes from his own address
        allowed.extend((self.row.client == Client::Itself).then_some(CLIENT));
        let allowed = allowed.iter().flat_map(|pair| [pair.v4, pair.v6]);
        let _truepeer = lab
            .truepeer()
            .allow(allowed.map(|ip| ip.to_string()))
            .start()?;
        let mut wire = Wire::tap(&lab.host, TRUEPEER_PORT)?;
        let _sender = (self.row.start)(&Place {
            netns: &lab.edge,
            pki: self.pki,
            to: HOST.v4(TRUEPEER_PORT),
        })?;
        for client in CLIENT.both(41000) {
            let visit = Visit {
                lab: &lab,
                pki: self.pki,
                client,
                target: self.target(client),
            };
            assert_eq!(visit.seen(self.row.client, &app)?, client);
            self.sent_once(wire.connections()?, client, visit.target)?;
        }
        Ok(())
    }

    /// Where the client connects to.
    fn target(&self, client: SocketAddr) -> SocketAddr {
        match self.row.client {
            Client::Itself => HOST.like(client, TRUEPEER_PORT),
            Client::Plain | Client::Tls => FRONT.like(client, FRONT_PORT),
        }
    }

    /// Of all connections, exactly one is this client's, and its header says what it should.
    fn sent_once(&self, sent: &[Connection], client: SocketAddr, target: SocketAddr) -> Result<()> {
        let ends = Endpoints {
            source: client,
            destination: target,
        };
        let mut his = 0;
        for bytes in sent.iter().map(Connection::bytes) {
            // A health check may have only begun, or be on its own behalf.
            let header = header(&bytes)?;
            if let Some(header) = header.filter(|header| header.endpoints == Some(ends)) {
                his += 1;
                assert_eq!(header.version, self.row.version);
                assert_eq!(contents::tlvs(&header), self.row.tlvs);
                contents::tell_the_truth(&header, self.pki)?;
            }
        }
        ensure!(his == 1, "{his} connections for {client}: {sent:?}");
        Ok(())
    }
}

/// The header that these bytes start with, or `None` while it isn't whole.
pub fn header(bytes: &[u8]) -> Result<Option<Header<'_>>> {
    Ok(match parse(bytes, &Policy::default())? {
        Parse::Complete { header, .. } => Some(header),
        Parse::Partial => None,
    })
}

#[expect(
    dead_code,
    reason = "what isn't asked anything is held until the visit is over"
)]
enum Running {
    Smtp(Service),
    Sshd(Sshd),
    Http(Nginx),
    Dns(Service),
}

impl Running {
    fn start(app: App, netns: &Netns) -> Result<Self> {
        let at = WILDCARD.v6(APP_PORT);
        Ok(match app {
            App::Smtp => Self::Smtp(Service::start(netns, at, smtp::serve)?),
            App::Sshd => Self::Sshd(Sshd::start(netns, at)?),
            App::Http => Self::Http(Nginx::start(netns, at)?),
            App::Dns => Self::Dns(Service::start(netns, at, dns::serve)?),
        })
    }
}

/// A client's way to an app.
struct Visit<'a> {
    lab: &'a Lab,
    pki: &'a Pki,
    client: SocketAddr,
    target: SocketAddr,
}

impl Visit<'_> {
    /// Whom the app sees.
    fn seen(&self, client: Client, app: &Running) -> Result<SocketAddr> {
        match (app, client) {
            (Running::Http(_), _) => http_peer(self.curl(client)?.trim_end()),
            (Running::Smtp(_), Client::Tls) => {
                smtp::greeted(&self.s_client()?.wait_line(smtp::READY)?)
            }
            (Running::Smtp(_), _) => smtp::greeted(&read_line(&mut self.connect()?)?),
            (Running::Sshd(sshd), Client::Tls) => {
                let client = self.s_client()?;
                client.wait_line("SSH-2.0-")?;
                self.logged(sshd)
            }
            (Running::Sshd(sshd), _) => {
                let banner = read_line(&mut self.connect()?)?;
                ensure!(banner.starts_with("SSH-2.0-"), "{banner}");
                self.logged(sshd)
            }
            (Running::Dns(_), _) => dns::ask(&mut self.connect()?),
        }
    }

    fn connect(&self) -> Result<TcpStream> {
        Ok(self.lab.client.connect_from(self.client, self.target)?)
    }

    fn s_client(&self) -> Result<Proc> {
        self.lab
            .client
            .spawn(self.pki.s_client(self.client, self.target))
    }

    fn curl(&self, client: Client) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-g", "--http1.1", "--max-time", "20"]);
        curl.args(["--interface", &self.client.ip().to_string()]);
        curl.args(["--local-port", &self.client.port().to_string()]);
        match client {
            Client::Tls => self.pki.curl(&mut curl, self.target),
            Client::Plain => _ = curl.arg(format!("http://{}/", self.target)),
            Client::Itself => {
                curl.arg("--haproxy-protocol");
                curl.arg(format!("http://{}/", self.target));
            }
        }
        let output = self.lab.client.output(curl)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// sshd's log has a line for each connection.
    fn logged(&self, sshd: &Sshd) -> Result<SocketAddr> {
        let line = sshd.wait_line(&format!("Connection from {} port ", self.client.ip()))?;
        let mut words = line.split(' ').skip_while(|word| *word != "from").skip(1);
        let ip = words.next().context("an address")?.parse()?;
        let port = words.nth(1).context("a port")?.parse()?;
        Ok(SocketAddr::new(ip, port))
    }
}

/// From nginx's `$remote_addr:$remote_port`, which has no brackets.
pub fn http_peer(text: &str) -> Result<SocketAddr> {
    let parts = text.rsplit_once(':');
    let (ip, port) = parts.with_context(|| format!("no address: {text}"))?;
    let ip: IpAddr = ip.parse().with_context(|| text.to_owned())?;
    Ok(SocketAddr::new(ip.to_canonical(), port.parse()?))
}
