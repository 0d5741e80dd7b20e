//! From what the relay knows of a connection to what an operator sees.

use crate::{
    admin::{ConnectionStatus, HeaderStatus},
    kernel::Handover,
    relay::{Connection, Shortcut as _},
};

pub fn status(connection: &Connection, handover: Option<&Handover>) -> ConnectionStatus {
    let header = &connection.header;
    let moved = &connection.moved;
    let id = moved.handed.get();
    // It may just have ended: then what the kernel has counted is gone.
    let since = id.and_then(|id| handover?.progress(id).ok());
    let (up, down) = since.map_or((0, 0), |progress| (progress.up, progress.down));
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
        handed_over: id.is_some(),
        up: moved.up.get() + up,
        down: moved.down.get() + down,
    }
}
