//! From what is known of a connection to what an operator sees.

use std::net::SocketAddr;

use crate::{
    admin::{ConnectionStatus, HeaderStatus},
    header::{Command, KeptTlvs, Parse, Policy, Version, parse},
    kernel::Flow,
    relay::Connection,
};

pub fn daemon(connection: &Connection) -> ConnectionStatus {
    let header = &connection.header;
    let moved = &connection.moved;
    ConnectionStatus {
        service: connection.service.name.clone(),
        client: connection.client.0,
        balancer: connection.balancer.0,
        target: connection.target.0,
        spoofed: connection.spoofed,
        path: "daemon".into(),
        seconds: connection.since.elapsed().as_secs(),
        header: header_status(header.version, header.command, &header.tlvs),
        up: moved.up.get(),
        down: moved.down.get(),
    }
}

/// The programs keep no header but those with TLVs.
pub fn direct(flow: &Flow, service: String, target: SocketAddr) -> ConnectionStatus {
    let version = if flow.version == 1 {
        Version::V1
    } else {
        Version::V2
    };
    ConnectionStatus {
        service,
        client: flow.client,
        balancer: flow.balancer,
        target,
        spoofed: true,
        path: "direct".into(),
        seconds: flow.age.as_secs(),
        header: header_status(version, Command::Proxy, &tlvs(flow)),
        up: flow.up,
        down: flow.down,
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
