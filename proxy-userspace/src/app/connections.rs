//! Open connections of both paths: how one is picked, and what an operator sees of it.

use std::{collections::BTreeMap, fmt, time::Duration};

use proxy_common::datagram::Receiver;

use super::routes::Routes;
use crate::{
    admin::{ConnectionStatus, DatagramCounts, HeaderStatus},
    config::Config,
    header::{Command, KeptTlvs, Parse, Policy, Version, parse},
    kernel::{DatagramFlow, Flow},
    relay::{Balancer, Client, Connection, Moved, Target},
};

/// The services' names by their ids: of those that are served, and of those that are no longer, while something of
/// them is open.
pub struct Names(BTreeMap<u32, String>);

impl Names {
    pub fn new(services: BTreeMap<String, u32>) -> Self {
        Self(services.into_iter().map(|(name, id)| (id, name)).collect())
    }

    /// Nothing, if it was a daemon before this one that has served it.
    pub fn of(&self, service: u32) -> &str {
        self.0.get(&service).map_or("", String::as_str)
    }

    /// Those of a new configuration as well.
    pub fn add(&mut self, config: &Config) {
        let services = config.services.iter();
        self.0.extend(services.map(|it| (it.id, it.name.clone())));
    }

    pub fn has_others_than(&self, config: &Config) -> bool {
        self.0.keys().any(|id| !is_served(config, *id))
    }

    /// Forgets those that are neither served nor needed; which ones.
    pub fn retain(&mut self, config: &Config, is_needed: impl Fn(u32) -> bool) -> Vec<u32> {
        let stays = |id: u32| is_served(config, id) || is_needed(id);
        let gone = self.0.keys().copied().filter(|id| !stays(*id)).collect();
        self.0.retain(|id, _| stays(*id));
        gone
    }
}

fn is_served(config: &Config, id: u32) -> bool {
    config.services.iter().any(|service| service.id == id)
}

/// An open connection, whichever path it takes.
pub struct Open<'a> {
    pub service: &'a str,
    pub service_id: u32,
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
            service_id: connection.service.id,
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
pub fn of_datagrams<'a>(names: &'a Names, routes: &Routes, flow: &DatagramFlow) -> Open<'a> {
    let ends = &flow.ends;
    Open {
        service: names.of(flow.service),
        service_id: flow.service,
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

pub fn datagrams(names: &Names, routes: &Routes, flow: &DatagramFlow) -> ConnectionStatus {
    let open = of_datagrams(names, routes, flow);
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
