//! From what the relay knows of a connection to what an operator sees.

use crate::{
    admin::{ConnectionStatus, HeaderStatus},
    relay::Connection,
};

pub fn status(connection: &Connection) -> ConnectionStatus {
    let header = &connection.header;
    ConnectionStatus {
        service: connection.service.name.clone(),
        client: connection.client.0,
        balancer: connection.balancer.0,
        target: connection.target.0,
        spoofed: connection.spoofed,
        seconds: connection.since.elapsed().as_secs(),
        header: HeaderStatus {
            version: header.version.to_string(),
            command: header.command.to_string(),
            tlvs: serde_json::to_value(header.tlvs.view()).unwrap_or_default(),
            tlvs_left_out: header.tlvs.left_out(),
        },
        up: connection.moved.up.get(),
        down: connection.moved.down.get(),
    }
}
