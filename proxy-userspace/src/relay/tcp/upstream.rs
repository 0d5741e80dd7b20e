//! Connecting to the application, from the client's address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use socket2::{Domain, Socket};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};

use crate::{
    relay::{Client, Route, Service, Shared},
    sys,
};

/// Knows the connections of clients to applications that aren't the relay's.
pub trait Neighbours: Send + Sync {
    fn has(&self, client: SocketAddr, steered: SocketAddr) -> bool;
    /// Whether there may be as many of the relay's beside them as there are, the one that asks
    /// included.
    fn leave_room(&self) -> bool;
}

/// A connection from the client's address. The calling thread is in the spoof namespace.
pub struct Spoofed<'a> {
    pub route: &'a Route,
    /// Whether there is something to send as soon as it is open.
    pub speaks: bool,
}

impl<'a> Spoofed<'a> {
    pub const fn plain(route: &'a Route) -> Self {
        Self {
            route,
            speaks: false,
        }
    }

    /// From the client's own port, or from another one of the same address if that is busy: then the
    /// same client has a connection to this application from this port already.
    pub async fn connect(
        &self,
        client: Client,
        service: &Service,
        shared: &Shared,
    ) -> io::Result<TcpStream> {
        if !self.is_taken(client.0, shared) {
            match self.connect_from(client.0).await {
                Err(error) if is_busy(&error) => {}
                result => return result,
            }
        }
        shared.report.port_busy(service, client);
        self.connect_from_another(client.0.ip(), shared).await
    }

    /// No socket in this namespace tells of those that don't come by here.
    fn is_taken(&self, source: SocketAddr, shared: &Shared) -> bool {
        let steered = self.route.steered;
        let is_taken = |them: &Arc<dyn Neighbours>| them.has(source, steered);
        shared.neighbours.as_ref().is_some_and(is_taken)
    }

    /// From exactly this source, unless its port is 0.
    pub async fn connect_from(&self, source: SocketAddr) -> io::Result<TcpStream> {
        connect(self.bound(source)?, self.route.steered).await
    }

    /// From any port that is free.
    async fn connect_from_another(&self, ip: IpAddr, shared: &Shared) -> io::Result<TcpStream> {
        // The kernel picks at random: half of a client's ports would have to be taken for one in a
        // thousand to fail.
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            let socket = self.bound(SocketAddr::new(ip, 0))?;
            let source = socket.local_addr()?.as_socket();
            if !source.is_some_and(|source| self.is_taken(source, shared)) {
                return connect(socket, self.route.steered).await;
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn bound(&self, source: SocketAddr) -> io::Result<Socket> {
        let socket = sys::transparent_socket(Domain::for_address(source))?;
        if !self.route.is_steered() {
            sys::keep_alive(&socket)?;
        }
        if self.speaks {
            // The handshake's last acknowledgment goes with the first data.
            socket.set_tcp_quickack(false)?;
        }
        socket.bind(&source.into())?;
        Ok(socket)
    }
}

/// An application on this host has answered by the time that the call comes back, and the second
/// call says so.
async fn connect(socket: Socket, target: SocketAddr) -> io::Result<TcpStream> {
    let mut connected = started(socket.connect(&target.into()))?;
    if !connected {
        connected = started(socket.connect(&target.into()))?;
    }
    let stream = TcpStream::from_std(socket.into())?;
    if !connected {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

/// Whether it is connected already.
fn started(connect: io::Result<()>) -> io::Result<bool> {
    let Err(error) = connect else {
        return Ok(true);
    };
    match error.raw_os_error() {
        Some(libc::EINPROGRESS | libc::EALREADY) => Ok(false),
        _ => Err(error),
    }
}

/// bind says AddrInUse, connect AddrNotAvailable.
fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

/// From this host's own address, without any steering: from `own`, or from the one that leads there.
pub async fn plain(route: &Route, own: Option<IpAddr>, shared: &Shared) -> io::Result<TcpStream> {
    let target = route.target.0;
    let socket = shared.host_sockets.socket(target.ip()).await?;
    if let Some(own) = own {
        // One that is the host's by a route alone is nobody's to the kernel, in IPv6.
        match own {
            IpAddr::V4(_) => socket.set_freebind_v4(true)?,
            IpAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        // Any port: the client's is its own socket's.
        socket.bind(&SocketAddr::new(own, 0).into())?;
    }
    connect(socket, target).await
}

/// Asks the thread that stayed on the host for a socket: those made here are in the spoof namespace.
#[derive(Clone)]
pub struct HostSockets(mpsc::Sender<HostSocketRequest>);

/// To be answered on the host.
pub struct HostSocketRequest {
    domain: Domain,
    reply: oneshot::Sender<io::Result<Socket>>,
}

impl HostSockets {
    pub fn new() -> (Self, mpsc::Receiver<HostSocketRequest>) {
        const WAITING: usize = 64;
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    async fn socket(&self, family: IpAddr) -> io::Result<Socket> {
        let (reply, answer) = oneshot::channel();
        let domain = Domain::for_address(SocketAddr::new(family, 0));
        let request = HostSocketRequest { domain, reply };
        self.0.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the host side has stopped")
}

impl HostSocketRequest {
    pub fn answer(self) {
        // The asker may have given up meanwhile.
        let _ = self.reply.send(sys::tcp_socket(self.domain));
    }
}
