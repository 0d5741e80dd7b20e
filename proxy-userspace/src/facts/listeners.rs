//! Who listens at the targets: applications come and go without an event.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::Result;
use rtnetlink::Handle;

use crate::{
    config::{Config, Transport},
    netns::{Entrance, TcpSockets, UdpSockets, device_name},
};

/// Applications that hear by one device alone, by target.
pub type Bound = BTreeMap<SocketAddr, BoundApp>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundApp {
    pub entrance: Entrance,
    /// Or did, until it ended.
    pub listens: bool,
}

/// What asking for them takes, of the network namespace that [`Self::new`] was called in.
pub struct Listeners {
    tcp: TcpSockets,
    udp: UdpSockets,
    targets: BTreeSet<(Transport, SocketAddr)>,
}

impl Listeners {
    pub fn new(config: &Config) -> Result<Self> {
        let services = config.services.iter();
        Ok(Self {
            tcp: TcpSockets::open()?,
            udp: UdpSockets::open()?,
            targets: services
                .flat_map(|service| service.targets().map(|at| (service.transport(), at)))
                .collect(),
        })
    }

    /// Targets whose listener has Multipath TCP. Where nobody listens now it is as it was `before`:
    /// an application that is started anew changes no path.
    pub fn multipath(&mut self, before: &BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        let mut has = |target: &SocketAddr| {
            // Where it can't be told, the programs find out by each connection.
            let has = known(*target, self.tcp.has_multipath_listener(*target));
            has.unwrap_or_else(|| before.contains(target))
        };
        let of_tcp = self
            .targets
            .iter()
            .filter(|(transport, _)| *transport == Transport::Tcp);
        of_tcp
            .map(|(_, target)| *target)
            .filter(|target| has(target))
            .collect()
    }

    /// Targets whose listener, or socket, is bound to a device, in the same way.
    pub async fn bound(&mut self, netlink: &Handle, before: &Bound) -> Bound {
        let mut bound = Bound::new();
        for (transport, target) in &self.targets {
            let before = before.get(target).map(|before| before.entrance.clone());
            let device = before.as_ref().map_or(0, |before| before.index);
            let found = match transport {
                Transport::Tcp => self.tcp.device_of_listener(*target, device),
                Transport::Udp => self.udp.device_at(*target, device),
            };
            let found = known(*target, found);
            let entrance = match (found, before) {
                (Some(0), _) => None,
                (Some(index), before) if before.as_ref().is_none_or(|it| it.index != index) => {
                    let name = device_name(netlink, index).await;
                    // Gone by now, and the listener with it.
                    name.ok().map(|name| Entrance { name, index })
                }
                (_, before) => before,
            };
            let listens = found.is_some();
            let app = entrance.map(|entrance| BoundApp { entrance, listens });
            bound.extend(app.map(|app| (*target, app)));
        }
        bound
    }
}

fn known<T>(target: SocketAddr, found: Result<Option<T>>) -> Option<T> {
    found.unwrap_or_else(|error| {
        tracing::debug!(%target, "who listens there isn't known: {error:#}");
        None
    })
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;

    #[test]
    fn nobody_changes_nothing() {
        let mut listeners = Listeners {
            tcp: TcpSockets::open().expect("sock_diag"),
            udp: UdpSockets::open().expect("sock_diag"),
            targets: BTreeSet::new(),
        };
        let [nowhere, mut at] = ["127.0.80.10:1", "127.0.80.10:0"]
            .map(|at| -> SocketAddr { at.parse().expect("an address") });
        let mut known = [nowhere].into();
        for (protocol, has) in [(Protocol::MPTCP, true), (Protocol::TCP, false)] {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol));
            let socket = socket.expect("a socket");
            socket.bind(&at.into()).expect("a port");
            socket.listen(1).expect("a listener");
            at = socket
                .local_addr()
                .expect("an address")
                .as_socket()
                .expect("of IP");
            listeners.targets = [nowhere, at].map(|at| (Transport::Tcp, at)).into();
            for who in [Some(socket), None] {
                known = listeners.multipath(&known);
                assert!(known.contains(&nowhere));
                assert_eq!(known.contains(&at), has, "{protocol:?}, {who:?}");
            }
        }
    }
}
