//! Whether the listen addresses are free.

use std::{io, net::SocketAddr};

use super::{Finding, holder};
use crate::{
    admin,
    app::listen::probe,
    config::{Config, Transport},
};

const SUBJECT: &str = "listen";

/// `running`: what the instance says of itself, if it runs.
pub fn check(config: &Config, running: Option<&admin::Status>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &config.services {
        for listen in &service.listen {
            let found = match probe(config, service, *listen) {
                Ok(()) if service.shares_listen() => shared(*listen),
                Ok(()) => Finding::ok(SUBJECT, format!("{listen} is free")),
                Err(error) => explain(*listen, service.transport(), &error, running),
            };
            findings.push(found.of(&service.name, None));
        }
    }
    findings
}

fn explain(
    listen: SocketAddr,
    among: Transport,
    error: &io::Error,
    running: Option<&admin::Status>,
) -> Finding {
    match error.kind() {
        io::ErrorKind::AddrInUse => taken(listen, among, running),
        io::ErrorKind::AddrNotAvailable => Finding::fail(
            SUBJECT,
            format!("{listen} is not an address of this host"),
            "listen at an address that `ip address` shows, or at 0.0.0.0 or [::]",
        ),
        io::ErrorKind::PermissionDenied => Finding::fail(
            SUBJECT,
            format!("{listen} is a port below 1024, for which CAP_NET_BIND_SERVICE is missing"),
            "run as root, or give CAP_NET_BIND_SERVICE",
        ),
        _ => Finding::fail(
            SUBJECT,
            format!("{listen} can't be used: {error}"),
            "choose another address",
        ),
    }
}

/// Whose application may listen there itself.
fn shared(listen: SocketAddr) -> Finding {
    Finding::warn(
        SUBJECT,
        format!(
            "{listen} is left to the application where outsiders are concerned: while truepeer is away, balancers' \
             headers reach it as well"
        ),
        "see that truepeer is started before balancers send, or have it listen at a port of its own",
    )
}

/// What a start says that can't listen there.
pub fn unusable(listen: SocketAddr, among: Transport, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("listening at {listen}, which is taken{}", by(listen, among))
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "listening at {listen}, which is not an address of this host: `ip address` shows them, 0.0.0.0 and \
             [::] are all of them"
        ),
        _ if error.raw_os_error() == Some(libc::EMFILE) => format!(
            "listening at {listen}, once for each worker, takes more files than may be open: fewer \
             --workers, or a higher limit (LimitNOFILE= in the unit)"
        ),
        _ => format!("listening at {listen}"),
    }
}

/// Who listens there already, if that can be told.
fn by(listen: SocketAddr, among: Transport) -> String {
    holder::of(listen, among).map_or_else(String::new, |holder| format!(" by {holder}"))
}

fn taken(listen: SocketAddr, among: Transport, running: Option<&admin::Status>) -> Finding {
    let serves = |status: &&admin::Status| {
        status
            .services
            .iter()
            .any(|service| service.listen.contains(&listen))
    };
    if let Some(status) = running.filter(serves) {
        let message = format!("{listen} is served by this instance, pid {}", status.pid);
        return Finding::ok(SUBJECT, message);
    }
    Finding::fail(
        SUBJECT,
        format!("{listen} is taken{}", by(listen, among)),
        "end what listens there, or choose another address or port",
    )
}
