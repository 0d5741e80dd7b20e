//! Connections into a contender, each with a client of its own in its header.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use truepeer::header::{Endpoints, V2Builder};

use crate::place::Place;

/// Far more than any of them takes; without it a hanging peer would hang the bench.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first client's address, and how many there are.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ADDRESSES: u32 = 250;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Header {
    None,
    WithFirst,
    /// In a segment of its own.
    Alone,
}

#[derive(Clone)]
pub struct Dialer {
    pub place: Place,
    pub target: SocketAddr,
    header: Header,
    spoof: bool,
}

impl Dialer {
    pub fn new(place: Place, target: SocketAddr) -> Self {
        Self {
            place,
            target,
            header: Header::None,
            spoof: false,
        }
    }

    /// Sends a PROXY header first.
    pub fn header(mut self) -> Self {
        self.header = Header::WithFirst;
        self
    }

    /// The same, where it sends one at all, and the header alone.
    pub fn header_alone(mut self) -> Self {
        if self.header == Header::WithFirst {
            self.header = Header::Alone;
        }
        self
    }

    /// Connects from a client's address itself. Only where truepeer does so.
    pub fn spoof(mut self) -> Self {
        self.spoof = true;
        self
    }

    /// Connects, and sends the header and `first`. The calling thread has to be in the dialer's place.
    pub fn dial(&self, first: &[u8]) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        if self.spoof {
            socket.set_ip_transparent_v4(true)?;
            socket.bind(&next_client().into())?;
        }
        self.connect(socket, first)
    }

    /// The same from this address and port.
    pub fn dial_from(&self, source: SocketAddr, first: &[u8]) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&source.into())?;
        self.connect(socket, first)
    }

    fn connect(&self, socket: Socket, first: &[u8]) -> io::Result<TcpStream> {
        socket.connect(&self.target.into())?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = TcpStream::from(socket);
        match self.header {
            Header::None => stream.write_all(first)?,
            Header::WithFirst => {
                let mut segment = header(next_client(), self.target)?;
                segment.extend_from_slice(first);
                stream.write_all(&segment)?;
            }
            Header::Alone => {
                stream.write_all(&header(next_client(), self.target)?)?;
                stream.write_all(first)?;
            }
        }
        Ok(stream)
    }

    /// So many connections, from any thread.
    pub fn dial_all(&self, count: usize, first: &[u8]) -> io::Result<Vec<TcpStream>> {
        self.place
            .enter(|| (0..count).map(|_| self.dial(first)).collect())
    }
}

/// 2, because every contender reads it, and none needs to search it for an end.
fn header(client: SocketAddr, target: SocketAddr) -> io::Result<Vec<u8>> {
    let endpoints = Endpoints {
        source: client,
        destination: target,
    };
    V2Builder::stream(&endpoints)
        .build()
        .map_err(io::Error::other)
}

/// Whether some connection's client has this address.
pub fn is_client(address: Ipv4Addr) -> bool {
    (CLIENTS.to_bits()..CLIENTS.to_bits() + ADDRESSES).contains(&address.to_bits())
}

/// No two connections, or flows of UDP, of a run have the same client.
pub fn next_client() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    let address = Ipv4Addr::from_bits(CLIENTS.to_bits() + n % ADDRESSES);
    let port = 1024 + n / ADDRESSES % 64_000;
    SocketAddr::from((address, u16::try_from(port).unwrap_or(u16::MAX)))
}
