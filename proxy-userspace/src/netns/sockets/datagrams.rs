//! The kernel's UDP sockets, by sock_diag.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_UDP,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};

use super::{
    filter::{Local, local_is_one_of},
    if_there_is,
    netlink::{Dump, Netlink},
};

/// Sockets of the network namespace that the calling thread was in when it opened this.
pub struct UdpSockets(Netlink);

impl UdpSockets {
    pub fn open() -> Result<Self> {
        Ok(Self(Netlink::open().context("opening sock_diag")?))
    }

    /// How many datagrams each socket has lost, as it had no room for them, that hears anybody at `local`.
    pub fn lost_at(&mut self, local: SocketAddr) -> Result<Vec<u32>> {
        let mut lost = Vec::new();
        self.hearing(local, |found| lost.push(drops(found)))?;
        Ok(lost)
    }

    /// The device that whoever hears anybody at `local` is bound to, as its index, in the same way as
    /// [`TcpSockets::device_of_listener`](super::TcpSockets::device_of_listener).
    pub fn device_at(&mut self, local: SocketAddr, before: u32) -> Result<Option<u32>> {
        let mut devices = Vec::new();
        self.hearing(local, |found| {
            let id = &found.header.socket_id;
            let device = id.interface_id;
            let is_any = id.source_address.to_canonical().is_unspecified();
            devices.push((device != 0, device != before, is_any, device));
        })?;
        Ok(devices.into_iter().min().map(|(.., device)| device))
    }

    /// The own address of a socket at this port that hears `peer` alone.
    pub fn connected_to(&mut self, peer: SocketAddr, port: u16) -> Result<Option<IpAddr>> {
        let mut own = None;
        self.at_port(port, |found| {
            let id = &found.header.socket_id;
            let address = id.destination_address.to_canonical();
            if SocketAddr::new(address, id.destination_port) == peer {
                own = Some(id.source_address.to_canonical());
            }
        })?;
        Ok(own)
    }

    fn hearing(&mut self, local: SocketAddr, mut found: impl FnMut(&InetResponse)) -> Result<()> {
        self.at_port(local.port(), |socket| {
            if hears(socket, local) {
                found(socket);
            }
        })
    }

    fn at_port(&mut self, port: u16, mut found: impl FnMut(&InetResponse)) -> Result<()> {
        for family in [AF_INET, AF_INET6] {
            let dump = Dump {
                request: InetRequest {
                    family,
                    protocol: IPPROTO_UDP,
                    extensions: ExtensionFlags::SKMEMINFO,
                    states: StateFlags::all(),
                    socket_id: SocketId::new_v6(),
                },
                filter: local_is_one_of(&[Local::Port(port)]),
            };
            self.0
                .dump(dump, |socket| found(&socket))
                .or_else(|error| if_there_is(family, error))
                .context("listing UDP sockets (kernel module udp_diag)")?;
        }
        Ok(())
    }
}

/// One that is connected hears its peer alone.
fn hears(found: &InetResponse, local: SocketAddr) -> bool {
    let id = &found.header.socket_id;
    let at = id.source_address.to_canonical();
    let only_v6 = found
        .nlas
        .iter()
        .any(|nla| matches!(nla, Nla::SkV6Only(true)));
    let is_any =
        at.is_unspecified() && (at.is_ipv4() == local.is_ipv4() || !only_v6 && at.is_ipv6());
    id.destination_port == 0 && (at == local.ip() || is_any)
}

fn drops(found: &InetResponse) -> u32 {
    let each = found.nlas.iter().filter_map(|nla| match nla {
        Nla::MemInfo(memory) => Some(memory.drops),
        _ => None,
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn finds_those_that_hear_anybody() {
        for (bind, at) in [
            ("127.0.80.6:0", "127.0.80.6"),
            ("0.0.0.0:0", "127.0.80.6"),
            ("[::]:0", "127.0.80.6"),
            ("[::1]:0", "::1"),
        ] {
            let socket = UdpSocket::bind(bind).expect("a socket");
            let port = socket.local_addr().expect("an address").port();
            let local = SocketAddr::new(at.parse().expect("an address"), port);
            let mut sockets = UdpSockets::open().expect("sock_diag");
            assert_eq!(sockets.lost_at(local).expect("a list"), [0], "{bind}");
            socket.connect(local).expect("a peer");
            assert!(sockets.lost_at(local).expect("a list").is_empty(), "{bind}");
        }
    }
}
