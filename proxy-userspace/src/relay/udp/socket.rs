//! The sockets: what comes with its destination, and leaves from a chosen source.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
        recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{relay::addr::canonical, sys::readable};

/// A service's, on the host, by which replies leave as well.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    pub at: SocketAddr,
}

/// Where a datagram came from, and was sent to, and how long it is.
pub struct Received {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The index of the device that it came by, where the socket tells.
    pub device: u32,
    /// DSCP and ECN.
    pub class: u8,
    pub len: usize,
}

/// `shared`: others of ours may be at the same address. It fails where somebody else is already.
pub fn listener(at: SocketAddr, shared: bool, only_v6: bool) -> io::Result<Listener> {
    let socket = socket(Domain::for_address(at))?;
    if at.is_ipv6() {
        socket.set_only_v6(only_v6)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        // Larger than the way takes in one piece, replies leave in several.
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
        // Of IPv4 it tells as a socket of IPv4 does.
        socket.set_recv_tos_v4(true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&at.into())?;
    if at.is_ipv6() {
        // One that is the host's by a route alone can't be answered from otherwise.
        socket.set_freebind_v6(true)?;
    }
    Ok(Listener { socket, at })
}

fn socket(domain: Domain) -> io::Result<Socket> {
    /// Of bytes: some hundred of the largest datagrams, which may come at once.
    const BUFFER: usize = 8 << 20;
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    match domain {
        Domain::IPV6 => socket.set_recv_tclass_v6(true)?,
        _ => socket.set_recv_tos_v4(true)?,
    }
    // More than others may have; without the right to that, as much as they.
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER))?;
    Ok(socket)
}

/// What replies come to, of IPv4 and of IPv6, whatever their addresses are.
pub struct Catchers(Vec<Socket>);

impl Catchers {
    /// In the calling thread's namespace; `v6`: whether there is IPv6.
    pub fn open(v6: bool) -> io::Result<Self> {
        let v4 = socket(Domain::IPV4)?;
        setsockopt(&v4, sockopt::Ipv4OrigDstAddr, &true)?;
        // Of any port: it has to be bound for the programs to find it.
        v4.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        let mut both = vec![v4];
        if v6 {
            let v6 = socket(Domain::IPV6)?;
            v6.set_only_v6(true)?;
            setsockopt(&v6, sockopt::Ipv6OrigDstAddr, &true)?;
            v6.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
            both.push(v6);
        }
        Ok(Self(both))
    }

    /// IPv4's first.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.0.iter()
    }

    pub(super) fn into_async(self) -> io::Result<Vec<AsyncFd<Socket>>> {
        self.0.into_iter().map(readable).collect()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The next datagram of a socket that tells where each was sent to; `at` is its own address, if that has
/// the port.
pub async fn receive(
    socket: &AsyncFd<impl AsRawFd>,
    at: Option<SocketAddr>,
    buffer: &mut [u8],
) -> io::Result<Received> {
    let receive = |socket: &_| receive_now(socket, at, buffer);
    socket.async_io(Interest::READABLE, receive).await
}

fn receive_now(
    socket: &impl AsRawFd,
    at: Option<SocketAddr>,
    buffer: &mut [u8],
) -> io::Result<Received> {
    let mut control = cmsg_space!(libc::in6_pktinfo, libc::sockaddr_in6, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let from = message.address.as_ref().and_then(address);
    let port = at.map_or(0, |at| at.port());
    let (mut to, mut class) = (None, 0);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4Tos(told) => class = told,
            // A number of eight bits.
            ControlMessageOwned::Ipv6TClass(told) => [class, ..] = told.to_le_bytes(),
            control => to = to.or_else(|| sent_to(&control, port)),
        }
    }
    match (from, to) {
        (Some(from), Some((to, device))) => Ok(Received {
            // With its link, if it has one.
            from: match from {
                SocketAddr::V6(v6) if v6.scope_id() != 0 => from,
                from => canonical(from),
            },
            to: canonical(to),
            device,
            class,
            len: message.bytes,
        }),
        _ => Err(io::Error::other("a datagram without its addresses")),
    }
}

/// With the index of the device.
fn sent_to(control: &ControlMessageOwned, port: u16) -> Option<(SocketAddr, u32)> {
    Some(match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let addr = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
            let device = info.ipi_ifindex.cast_unsigned();
            (SocketAddr::from((addr, port)), device)
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let addr = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            (SocketAddr::from((addr, port)), info.ipi6_ifindex)
        }
        ControlMessageOwned::Ipv4OrigDstAddr(at) => {
            (SocketAddrV4::from(SockaddrIn::from(*at)).into(), 0)
        }
        ControlMessageOwned::Ipv6OrigDstAddr(at) => {
            (SocketAddrV6::from(SockaddrIn6::from(*at)).into(), 0)
        }
        _ => return None,
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in();
    let v4 = v4.map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| Some(SocketAddrV6::from(*storage.as_sockaddr_in6()?).into()))
}

impl Listener {
    /// Sends to `to` from an address of this host.
    pub fn send(&self, parts: &[&[u8]], from: IpAddr, to: SocketAddr, class: u8) -> io::Result<()> {
        send_from(self, self.at.is_ipv4(), parts, (from, to), class)
    }
}

/// Sends by a socket of IPv4, or of IPv6, to `to`, from an address that it may have; `class`: DSCP and ECN.
pub fn send_from(
    socket: &impl AsRawFd,
    is_v4: bool,
    parts: &[&[u8]],
    (from, to): (IpAddr, SocketAddr),
    class: u8,
) -> io::Result<()> {
    let wide = i32::from(class);
    let class = match to.ip().to_canonical() {
        IpAddr::V4(_) => ControlMessage::Ipv4Tos(&class),
        IpAddr::V6(_) => ControlMessage::Ipv6TClass(&wide),
    };
    let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let (v4, v6);
    let (control, to) = if is_v4 {
        let IpAddr::V4(from) = from else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        v4 = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(from.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        (
            ControlMessage::Ipv4PacketInfo(&v4),
            SockaddrStorage::from(to),
        )
    } else {
        v6 = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr {
                s6_addr: mapped(from).octets(),
            },
            ipi6_ifindex: 0,
        };
        let link = match to {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(to) => to.scope_id(),
        };
        let to = SocketAddrV6::new(mapped(to.ip()), to.port(), 0, link);
        (
            ControlMessage::Ipv6PacketInfo(&v6),
            SockaddrStorage::from(to),
        )
    };
    let flags = MsgFlags::MSG_DONTWAIT;
    let controls = [control, class];
    sendmsg(socket.as_raw_fd(), &parts, &controls, flags, Some(&to))?;
    Ok(())
}

/// As a socket of IPv6 names it.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
