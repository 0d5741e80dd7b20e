//! What the relay tells, and how a connection can end.

use std::{io, net::IpAddr};

use thiserror::Error;

use super::{Balancer, Client, Connection, Exceeded, Martian, Service, Target};
use crate::header::Refusal;

/// Hears what happens to connections.
pub trait Report: Send + Sync {
    fn accepted(&self, service: &Service, balancer: Balancer);
    /// The application accepted.
    fn opened(&self, connection: &Connection);
    /// The client's port was taken by another connection of this client to this application.
    fn port_busy(&self, service: &Service, client: Client);
    fn ended(&self, service: &Service, balancer: Balancer, end: &End);
    fn accept_failed(&self, service: &Service, error: &io::Error);
}

/// How a connection ended. The message says what was wrong and whose turn it is.
#[derive(Debug, Error)]
pub enum End {
    #[error("both sides closed, {up} bytes up and {down} bytes down")]
    Closed { up: u64, down: u64 },
    #[error("reset: {0}")]
    Reset(io::Error),
    #[error("stopped by the drain timeout or the operator")]
    Stopped,
    #[error("the balancer left without a byte, as a health check does")]
    Silent,
    #[error("no whole header within the header timeout: {bytes} bytes came")]
    HeaderTimeout { bytes: usize },
    #[error("the balancer closed in the middle of its header, after {bytes} bytes")]
    HeaderCut { bytes: usize },
    #[error("reading the header: {0}")]
    HeaderRead(io::Error),
    #[error("bad header: {0}")]
    Header(Refusal),
    #[error(
        "the header names no client (LOCAL, UNKNOWN or no IP address), and --on-local says to \
         refuse those"
    )]
    Local,
    #[error("claimed client {client} is {martian}: refused")]
    Client { client: Client, martian: Martian },
    #[error("client {0} is denied: see `truepeer deny list`")]
    Denied(Client),
    #[error("client {client} is refused: {exceeded}")]
    Limit { client: Client, exceeded: Exceeded },
    #[error(
        "no route to the balancer goes by device {device}, which its datagram came by: see `ip route get {balancer}`"
    )]
    ReversePath { balancer: IpAddr, device: u32 },
    #[error("another balancer has just spoken for client {0}")]
    Taken(Client),
    #[error("the service is drained, and takes no new clients")]
    Drained,
    #[error(
        "sent to {0}, which everybody hears and nobody can answer from: the balancer must send to one host"
    )]
    ToEverybody(IpAddr),
    #[error(
        "whom the balancer's port speaks for was forgotten for others' sake, and a header may be that \
         client's own: it counts again after --close-after of silence"
    )]
    Forgotten,
    #[error("client {0} has no target of its family: give one with {flag}", flag = flag(.0))]
    NoTarget(Client),
    #[error("the application at {target} took longer than the connect timeout")]
    ConnectTimeout { target: Target },
    #[error("the application at {target} can't be reached from client {client}: {error}")]
    Connect {
        target: Target,
        client: Client,
        error: io::Error,
    },
}

fn flag(client: &Client) -> &'static str {
    if client.0.is_ipv4() {
        "--target4"
    } else {
        "--target6"
    }
}

/// A balancer that sends nothing at all may just be waiting for its client's first bytes.
const NOTHING_CAME: &str = "if the application speaks first (SMTP, MySQL, FTP), the balancer may \
    be keeping its header until the client speaks: an AWS NLB does, until AWS support sets \
    proxy_protocol_v2.client_to_server.header_placement to on_first_ack for its target group; \
    other balancers have to send it at once. If the client speaks first, see whether the \
    balancer's PROXY protocol is switched on";

impl End {
    /// What to look into, where the message alone doesn't tell.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::HeaderTimeout { bytes: 0 }).then_some(NOTHING_CAME)
    }

    /// Whether nobody has to look into it. Whatever is new is notable until it is listed here.
    pub fn is_normal(&self) -> bool {
        matches!(
            self,
            Self::Closed { .. } | Self::Reset(_) | Self::Stopped | Self::Silent | Self::Drained
        )
    }
}

/// One list for names and match, so that a variant can't be left out of either.
macro_rules! names {
    ($($variant:ident => $name:literal,)*) => {
        impl End {
            #[cfg(test)]
            pub const NAMES: &[&str] = &[$($name),*];

            /// The stable name under which it is counted.
            pub fn name(&self) -> &'static str {
                match self {
                    Self::Header(refusal) => refusal.name(),
                    Self::Client { martian, .. } => martian.name(),
                    Self::Limit { exceeded, .. } => exceeded.name(),
                    $(Self::$variant { .. } => $name,)*
                }
            }
        }
    };
}

names! {
    Closed => "closed",
    Reset => "reset",
    Stopped => "stopped",
    Silent => "silent",
    HeaderTimeout => "header_timeout",
    HeaderCut => "header_cut",
    HeaderRead => "header_read",
    Local => "local_refused",
    Denied => "client_denied",
    ReversePath => "reverse_path",
    Taken => "taken",
    Drained => "drained",
    ToEverybody => "to_everybody",
    Forgotten => "forgotten",
    NoTarget => "no_target",
    ConnectTimeout => "connect_timeout",
    Connect => "connect_failed",
}
