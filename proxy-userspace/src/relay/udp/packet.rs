//! Datagrams from clients' addresses.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::{Ipv4Header, Ipv6Header, PacketBuilder, ip_number};
use rustix::{
    net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    },
    rand::{GetRandomFlags, getrandom},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::socket::send_from;
use crate::sys::set_transparent;

/// Sends datagrams from any source, to applications on this host.
pub struct Injector {
    here: Raw,
    beyond: Forwarder,
}

impl Injector {
    /// In the calling thread's namespace, whose routes lead to the applications of this host.
    pub fn new(beyond: Forwarder) -> io::Result<Self> {
        Ok(Self {
            here: Raw::open(libc::IPPROTO_RAW)?,
            beyond,
        })
    }

    /// `class`: DSCP and ECN. `is_beyond`: the application isn't on this host.
    pub fn send(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
        class: u8,
        is_beyond: bool,
    ) -> io::Result<()> {
        let packet = packet(from, to, payload, class)?;
        if is_beyond {
            return self.beyond.send(from, to, &packet, class);
        }
        let socket = self.here.of_family(to)?;
        // A raw socket's port is its protocol, or none.
        let to = SocketAddr::new(to.ip(), 0).into();
        if packet.len() <= LONGEST {
            socket.send_to(&packet, &to)?;
            return Ok(());
        }
        for piece in pieces(&packet)? {
            socket.send_to(&piece, &to)?;
        }
        Ok(())
    }
}

/// What a device takes in one piece. IPv6 doesn't count its header, and so has packets that are longer.
const LONGEST: usize = u16::MAX as usize;

/// A packet of IPv6 in two. The one with the ports, by which the programs find the application and the device
/// where it hears, is the last: the stack takes the whole for one that has come by its device.
fn pieces(packet: &[u8]) -> io::Result<[Vec<u8>; 2]> {
    /// Where the second one begins, at a multiple of eight. The lowest bit of a place says that more follow.
    const SECOND: u16 = 1 << 15;
    const MORE: u16 = 1;
    const FRAGMENT_LEN: usize = 8;
    let (header, datagram) = Ipv6Header::from_slice(packet).map_err(io::Error::other)?;
    let mut id = [0; 4];
    // Who could guess it might put a piece of his own in between.
    getrandom(&mut id, GetRandomFlags::empty())?;
    let piece = |place: u16, bytes: &[u8]| {
        let mut header = header.clone();
        let inner = mem::replace(&mut header.next_header, ip_number::IPV6_FRAG);
        let place = place.to_be_bytes();
        header
            .set_payload_length(FRAGMENT_LEN + bytes.len())
            .map_err(io::Error::other)?;
        // etherparse's own has the bit in another place.
        let fragment = [&[inner.0, 0], &place[..], &id].concat();
        Ok::<_, io::Error>([&header.to_bytes()[..], &fragment, bytes].concat())
    };
    let (first, second) = datagram.split_at(SECOND.into());
    Ok([piece(SECOND, second)?, piece(MORE, first)?])
}

/// Sends datagrams from any source to applications beyond this host, by its routes. The kernel makes pieces
/// of what the way doesn't take in one.
pub struct Forwarder(Raw);

impl Forwarder {
    /// In the calling thread's namespace, which is the host's.
    pub fn open() -> io::Result<Self> {
        let raw = Raw::open(libc::IPPROTO_UDP)?;
        set_transparent(&raw.v4, Domain::IPV4)?;
        set_ip_mtu_discover(&raw.v4, Ipv4PathMtuDiscovery::DONT)?;
        if let Some(v6) = &raw.v6 {
            set_transparent(v6, Domain::IPV6)?;
            set_ipv6_mtu_discover(v6, Ipv6PathMtuDiscovery::DONT)?;
        }
        // At a wildcard they would hear all datagrams of the host: a copy of each is made.
        raw.v4.bind(&SocketAddr::from((NOBODY_V4, 0)).into())?;
        if let Some(v6) = &raw.v6 {
            v6.bind(&SocketAddr::from((NOBODY_V6, 0)).into())?;
        }
        Ok(Self(raw))
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, packet: &[u8], class: u8) -> io::Result<()> {
        let socket = self.0.of_family(to)?;
        let headers = if to.is_ipv4() {
            Ipv4Header::MIN_LEN
        } else {
            Ipv6Header::LEN
        };
        let to = SocketAddr::new(to.ip(), 0);
        let ends = (from.ip(), to);
        send_from(socket, to.is_ipv4(), &[&packet[headers..]], ends, class)
    }
}

/// Nothing is ever sent to these two: the dummy address of RFC 7600, and one to be discarded of RFC 6666.
const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
const NOBODY_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// Raw sockets of IPv4 and, where there is that, of IPv6.
struct Raw {
    v4: Socket,
    v6: Option<Socket>,
}

impl Raw {
    fn open(protocol: i32) -> io::Result<Self> {
        let [v4, v6] = [Domain::IPV4, Domain::IPV6].map(|domain| {
            let protocol = Some(Protocol::from(protocol));
            Socket::new(domain, Type::RAW.nonblocking(), protocol)
        });
        Ok(Self {
            v4: v4?,
            v6: v6.ok(),
        })
    }

    fn of_family(&self, to: SocketAddr) -> io::Result<&Socket> {
        let socket = if to.is_ipv4() {
            Some(&self.v4)
        } else {
            self.v6.as_ref()
        };
        socket.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8], class: u8) -> io::Result<Vec<u8>> {
    const HOPS: u8 = 64;
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOPS),
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let builder = ip.udp(from.port(), to.port());
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, payload)
        .map_err(io::Error::other)?;
    // The kernel sums IPv4's header up by itself.
    match from {
        SocketAddr::V4(_) => packet[1] = class,
        SocketAddr::V6(_) => {
            packet[0] |= class >> 4;
            packet[1] |= class << 4;
        }
    }
    Ok(packet)
}
