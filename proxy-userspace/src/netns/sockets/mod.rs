//! The kernel's TCP sockets, whoever owns them, by sock_diag: those that have a steer address, what
//! they have moved, and ending them.
//!
//! Listing needs no privilege, ending needs CAP_NET_ADMIN.

mod datagrams;
mod filter;
mod listener;
mod netlink;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage, constants as tcp,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use rustix::io::Errno;

pub use datagrams::UdpSockets;
pub use filter::Local;
pub use listener::Entrance;
use netlink::{Dump, Netlink};

/// Sockets of the network namespace that the calling thread was in when it opened this.
pub struct TcpSockets(Netlink);

/// A connection as the kernel has it, orphans and what accept() hasn't returned included.
#[derive(Clone, Debug)]
pub struct TcpSocket {
    /// IPv4 addresses are never mapped here, whatever the socket's family.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: SocketState,
    is_owned: bool,
    /// `local` and `remote` as the kernel wants them.
    family: u8,
    id: SocketId,
}

impl TcpSocket {
    /// The index of the device that it is bound to, or 0.
    pub fn device(&self) -> u32 {
        self.id.interface_id
    }
}

/// A listener is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Closing,
}

impl TcpSockets {
    pub fn open() -> Result<Self> {
        Ok(Self(Netlink::open().context("opening sock_diag")?))
    }

    /// By a socket that was another one's of these, in whatever namespace.
    pub fn by(sock_diag: OwnedFd) -> Self {
        Self(Netlink::by(sock_diag))
    }

    /// Tells of each connection whose own end is one of `local`. The kernel picks them, so that
    /// others cost nothing but its own look at them.
    pub fn for_each(&mut self, local: &[Local], mut found: impl FnMut(TcpSocket)) -> Result<()> {
        self.dump(StateFlags::all() - StateFlags::LISTEN, local, &mut found)
    }

    /// Whether any has yet to hear that its end, and all before it, has arrived.
    pub fn any_is_closing(&mut self) -> Result<bool> {
        let states = StateFlags::FIN_WAIT1 | StateFlags::CLOSING | StateFlags::LAST_ACK;
        let mut any = false;
        self.dump(states, &Local::ANY, &mut |_| any = true)?;
        Ok(any)
    }

    /// Whether any is a process's, be it this one's.
    pub fn any_is_owned(&mut self) -> Result<bool> {
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT;
        let mut any = false;
        self.dump(states, &Local::ANY, &mut |socket| any |= socket.is_owned)?;
        Ok(any)
    }

    fn dump(
        &mut self,
        states: StateFlags,
        local: &[Local],
        found: &mut impl FnMut(TcpSocket),
    ) -> Result<()> {
        for local in local.chunks(filter::MOST) {
            // Sockets of IPv6 listeners are among AF_INET6's, though their addresses may be IPv4.
            for family in [AF_INET, AF_INET6] {
                let dump = Dump {
                    request: request(family, states.clone()),
                    filter: filter::local_is_one_of(local),
                };
                self.0
                    .dump(dump, |response| found(TcpSocket::new(response)))
                    .or_else(|error| if_there_is(family, error))
                    .context("listing TCP sockets (kernel module tcp_diag)")?;
            }
        }
        Ok(())
    }

    /// Whether a connection has a socket that would hear a new one's first segment as its own: in
    /// TIME_WAIT it makes way.
    pub fn is_there(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<bool> {
        let mut is_there = false;
        self.find(local, remote, 0, ExtensionFlags::empty(), |found| {
            let state = found.header.state;
            is_there = !matches!(state, tcp::TCP_TIME_WAIT | tcp::TCP_LISTEN);
        })?;
        Ok(is_there)
    }

    /// Tells of the one that the kernel gives a segment to, if any, with `extensions`.
    fn find(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        device: u32,
        extensions: ExtensionFlags,
        found: impl FnMut(InetResponse),
    ) -> Result<()> {
        let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
        let socket_id = SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: device,
            cookie: ANY,
        };
        let request = InetRequest {
            extensions,
            socket_id,
            ..request(family, StateFlags::all())
        };
        match self.0.ask(request, found) {
            Err(error) if is(&error, Errno::NOENT) => Ok(()),
            asked => asked.context("looking for a TCP socket (kernel module tcp_diag)"),
        }
    }

    /// Ends it as by a failure: its owner reads ECONNABORTED, and its peer gets a reset if it is in
    /// a state in which the kernel sends one. False if it is gone already.
    ///
    /// Not sent from: TIME_WAIT, LAST_ACK, CLOSING, FIN_WAIT2 that nobody owns any more.
    pub fn destroy(&mut self, socket: &TcpSocket) -> Result<bool> {
        // The tuple finds it; the cookie keeps its successor from harm.
        let mut request = request(socket.family, StateFlags::all());
        request.socket_id = socket.id.clone();
        let destroy = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        match self.0.command(destroy) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::NOENT) => Ok(false),
            Err(error) if is(&error, Errno::OPNOTSUPP) => {
                bail!("the kernel can't end sockets: it lacks CONFIG_INET_DIAG_DESTROY")
            }
            Err(error) => {
                let (local, remote) = (socket.local, socket.remote);
                Err(error)
                    .with_context(|| format!("ending {local} to {remote} (needs CAP_NET_ADMIN)"))
            }
        }
    }
}

impl AsFd for TcpSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn request(family: u8, states: StateFlags) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId::new_v6(),
    }
}

/// A kernel without IPv6 has none of its sockets.
fn if_there_is(family: u8, error: io::Error) -> io::Result<()> {
    if family == AF_INET6 && is(&error, Errno::NOENT) {
        Ok(())
    } else {
        Err(error)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

impl TcpSocket {
    fn new(response: InetResponse) -> Self {
        let header = response.header;
        let id = header.socket_id;
        Self {
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
            state: SocketState::from(header.state),
            is_owned: header.inode != 0,
            family: header.family,
            id,
        }
    }
}

impl From<u8> for SocketState {
    fn from(state: u8) -> Self {
        match state {
            tcp::TCP_ESTABLISHED => Self::Established,
            tcp::TCP_SYN_SENT => Self::SynSent,
            // The kernel has two: before and after accept() could return it.
            tcp::TCP_SYN_RECV | NEW_SYN_RECV => Self::SynReceived,
            tcp::TCP_FIN_WAIT1 => Self::FinWait1,
            tcp::TCP_FIN_WAIT2 => Self::FinWait2,
            tcp::TCP_TIME_WAIT => Self::TimeWait,
            tcp::TCP_CLOSE_WAIT => Self::CloseWait,
            tcp::TCP_LAST_ACK => Self::LastAck,
            tcp::TCP_CLOSING => Self::Closing,
            _ => Self::Closed,
        }
    }
}

/// INET_DIAG_NOCOOKIE of linux/inet_diag.h.
const ANY: [u8; 8] = [0xff; 8];

/// TCP_NEW_SYN_RECV of net/tcp_states.h.
const NEW_SYN_RECV: u8 = 12;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener, TcpStream};

    use super::*;

    fn listed(local: &[&str]) -> Vec<TcpSocket> {
        let ip = |local: &&str| Local::from(local.parse::<IpAddr>().expect("an IP"));
        listed_at(&local.iter().map(ip).collect::<Vec<_>>())
    }

    fn listed_at(local: &[Local]) -> Vec<TcpSocket> {
        let mut found = Vec::new();
        let mut sockets = TcpSockets::open().expect("sock_diag");
        let all = sockets.for_each(local, |socket| found.push(socket));
        all.expect("a list");
        found
    }

    /// A connection over loopback: the client's end and the application's.
    fn connection(listen: &str, to: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let client = TcpStream::connect(format!("{to}:{port}")).expect("a connection");
        (client, listener.accept().expect("its other end").0)
    }

    #[test]
    fn lists_an_ipv6_listeners_ipv4_connection_as_ipv4() {
        let (client, _app) = connection("[::]:0", "127.0.80.1");
        let found = listed(&["192.0.2.1", "fd00::1", "127.0.80.1"]);
        let port = client.peer_addr().expect("an address").port();
        let app = found.iter().find(|found| found.local.port() == port);
        let app = app.expect("the application's end");
        assert_eq!(app.local.ip().to_string(), "127.0.80.1");
        assert_eq!(app.remote, client.local_addr().expect("an address"));
        assert_eq!(app.state, SocketState::Established);
    }

    #[test]
    fn finds_one() {
        for (listen, to) in [("[::]:0", "127.0.80.5"), ("[::1]:0", "[::1]")] {
            let (client, app) = connection(listen, to);
            let (local, remote) = (
                client.peer_addr().expect("an address"),
                client.local_addr().expect("an address"),
            );
            let mut sockets = TcpSockets::open().expect("sock_diag");
            let mut is_there = || sockets.is_there(local, remote).expect("an answer");
            assert!(is_there());
            // The app's end is the one without TIME_WAIT.
            drop(client);
            drop(app);
            assert!(!is_there());
        }
    }

    #[test]
    fn lists_those_of_a_port() {
        for (listen, to) in [("127.0.80.4:0", "127.0.80.4"), ("[::1]:0", "[::1]")] {
            let (client, app) = connection(listen, to);
            let port = client.peer_addr().expect("an address").port();
            let found = listed_at(&[Local::Port(port)]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].local, app.local_addr().expect("an address"));
        }
    }

    #[test]
    fn lists_none_of_other_addresses() {
        let _open = [
            connection("127.0.80.2:0", "127.0.80.2"),
            connection("[::]:0", "127.0.80.2"),
        ];
        assert_eq!(listed(&["127.0.80.2"]).len(), 2);
        let near = ["127.0.80.3", "127.0.80.0", "::2", "::ffff:127.0.80.3"];
        assert!(listed(&near).is_empty());
        assert!(listed(&[]).is_empty());
    }
}
