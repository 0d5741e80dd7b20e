//! Datagrams from clients' addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

/// Sends datagrams from any source.
pub struct Injector {
    v4: Socket,
    /// None where there is no IPv6.
    v6: Option<Socket>,
}

impl Injector {
    /// In the calling thread's namespace, whose routes lead to the applications.
    pub fn new() -> io::Result<Self> {
        let raw = |domain| {
            let protocol = Protocol::from(libc::IPPROTO_RAW);
            Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))
        };
        Ok(Self {
            v4: raw(Domain::IPV4)?,
            v6: raw(Domain::IPV6).ok(),
        })
    }

    pub fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        const HOPS: u8 = 64;
        let (socket, ip) = match (from.ip(), to.ip(), &self.v6) {
            (IpAddr::V4(from), IpAddr::V4(to), _) => (
                &self.v4,
                PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
            ),
            (IpAddr::V6(from), IpAddr::V6(to), Some(v6)) => {
                (v6, PacketBuilder::ipv6(from.octets(), to.octets(), HOPS))
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let builder = ip.udp(from.port(), to.port());
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder
            .write(&mut packet, payload)
            .map_err(io::Error::other)?;
        // A raw socket's port is its protocol, or none.
        socket.send_to(&packet, &SocketAddr::new(to.ip(), 0).into())?;
        Ok(())
    }
}
