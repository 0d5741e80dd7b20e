//! Open connections of both paths: how one is picked, and what an operator sees of it.

use std::{fmt, time::Duration};

use proxy_common::datagram::Receiver;

use super::routes::Routes;
use crate::{
    admin::{ConnectionStatus, DatagramCounts, HeaderStatus},
    config::Config,
    header::{Command, KeptTlvs, Parse, Policy, Version, parse},
    kernel::{DatagramFlow, Flow},
    relay::{Balancer, Client, Connection, Moved, Target},
};

/// An open connection, whichever path it takes.
pub struct Open<'a> {
    pub service: &'a str,
    pub client: Client,
    pub balancer: Balancer,
    pub target: Target,
    pub path: Path,
    pub age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Direct,
    Daemon,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Daemon => "daemon",
        })
    }
}

impl<'a> From<&'a Connection> for Open<'a> {
    fn from(connection: &'a Connection) -> Self {
        Self {
            service: &connection.service.name,
            client: connection.client,
            balancer: connection.balancer,
            target: connection.target,
            path: Path::Daemon,
            age: connection.since.elapsed(),
        }
    }
}

impl Open<'_> {
    fn status(&self, spoofed: bool, header: HeaderStatus, up: u64, down: u64) -> ConnectionStatus {
        ConnectionStatus {
            service: self.service.to_owned(),
            client: self.client.0,
            balancer: self.balancer.0,
            target: self.target.0,
            spoofed,
            path: self.path.to_string(),
            seconds: self.age.as_secs(),
            header,
            up,
            down,
            datagrams: None,
        }
    }
}

pub fn daemon(connection: &Connection) -> ConnectionStatus {
    let header = &connection.header;
    let header = header_status(header.version, header.command, &header.tlvs);
    let Moved { up, down } = &connection.moved;
    Open::from(connection).status(connection.spoofed, header, up.get(), down.get())
}

/// The programs keep no header but those with TLVs.
pub fn direct(open: &Open<'_>, flow: &Flow) -> ConnectionStatus {
    let version = if flow.version == 1 {
        Version::V1
    } else {
        Version::V2
    };
    let header = header_status(version, Command::Proxy, &tlvs(flow));
    open.status(true, header, flow.up, flow.down)
}

/// The programs keep no header.
pub fn of_datagrams<'a>(config: &'a Config, routes: &Routes, flow: &DatagramFlow) -> Open<'a> {
    let mut services = config.services.iter();
    let service = services.find(|service| service.id == flow.service);
    let ends = &flow.ends;
    Open {
        service: service.map_or("", |service| &service.name),
        client: Client(ends.client),
        balancer: Balancer(ends.balancer),
        target: routes.target_behind(ends.aim).unwrap_or(Target(ends.aim)),
        path: path(flow),
        age: flow.age,
    }
}

/// The programs don't send on what the balancer says for itself.
fn path(flow: &DatagramFlow) -> Path {
    if flow.flags & Receiver::DIRECT != 0 && !flow.ends.is_local {
        Path::Direct
    } else {
        Path::Daemon
    }
}

pub fn datagrams(config: &Config, routes: &Routes, flow: &DatagramFlow) -> ConnectionStatus {
    let open = of_datagrams(config, routes, flow);
    let version = if flow.flags & Receiver::SPP != 0 {
        Version::Spp
    } else {
        Version::V2
    };
    let command = if flow.ends.is_local {
        Command::Local
    } else {
        Command::Proxy
    };
    let header = header_status(version, command, &KeptTlvs::default());
    let counts = DatagramCounts {
        up: flow.up.datagrams,
        down: flow.down.datagrams,
    };
    ConnectionStatus {
        datagrams: Some(counts),
        ..open.status(true, header, flow.up.bytes, flow.down.bytes)
    }
}

fn header_status(version: Version, command: Command, tlvs: &KeptTlvs) -> HeaderStatus {
    HeaderStatus {
        version: version.to_string(),
        command: command.to_string(),
        tlvs: serde_json::to_value(tlvs.view()).unwrap_or_default(),
        tlvs_left_out: tlvs.left_out(),
    }
}

/// As far as the header of a direct connection has any.
pub fn tlvs(flow: &Flow) -> KeptTlvs {
    let header = flow.header.as_deref().unwrap_or_default();
    match parse(header, &Policy::default()) {
        Ok(Parse::Complete { header, .. }) => header.tlvs.keep(),
        Ok(Parse::Partial) | Err(_) => KeptTlvs::default(),
    }
}
