//! The addresses that a header states.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::Serialize;

/// The two ends of the client's connection, as the balancer states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoints {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Endpoints {
    /// Each IPv4-mapped IPv6 address (`::ffff:1.2.3.4`) as the IPv4 address it stands for.
    ///
    /// The parser leaves addresses as sent, since a service may have IPv6 targets only. Each side
    /// is taken on its own, so the two families can differ afterwards.
    #[must_use]
    pub fn canonical(self) -> Self {
        Self {
            source: canonical(self.source),
            destination: canonical(self.destination),
        }
    }

    /// The addresses in one family: IPv4 if both are, else IPv6 with IPv4 mapped into it (S-1).
    pub(super) fn one_family(&self) -> (IpAddr, IpAddr) {
        match (self.source.ip(), self.destination.ip()) {
            (source @ IpAddr::V4(_), destination @ IpAddr::V4(_)) => (source, destination),
            (source, destination) => (mapped(source).into(), mapped(destination).into()),
        }
    }
}

pub(super) fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
