//! The app's part: a socket per thread at each address, and what is done with a batch of datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{self, Batch};
use super::message::Message;
use crate::app::{ECHO, SINK, Shared};

/// For as many datagrams as are ever on their way, all at one socket.
const BUFFER: usize = 4 << 20;

/// One of several at the same address, among which the kernel shares out clients.
pub fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What has come to sinks.
pub struct Arrivals {
    datagrams: AtomicU64,
    /// The last number that each flow's datagrams had.
    numbers: Vec<AtomicU64>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            datagrams: AtomicU64::new(0),
            numbers: (0..super::MOST_FLOWS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Arrivals {
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Relaxed)
    }

    pub fn last(&self, flow: u16) -> u64 {
        let number = self.numbers.get(usize::from(flow));
        number.map_or(0, |number| number.load(Relaxed))
    }

    fn note(&self, message: Message) {
        if let Some(number) = self.numbers.get(usize::from(message.flow)) {
            number.fetch_max(message.number, Relaxed);
        }
    }
}

/// Takes a batch, does what it wants, and says whether there may be more.
pub fn turn(socket: &UdpSocket, batch: &mut Batch, shared: &Shared) -> io::Result<bool> {
    let more = batch.receive(socket)?;
    let (mut sunk, mut client) = (0, None);
    for (datagram, from) in batch.all() {
        client = from;
        if datagram.first() == Some(&SINK) {
            Message::read(datagram)
                .into_iter()
                .for_each(|message| shared.arrivals.note(message));
            sunk += 1;
        }
    }
    if sunk > 0 {
        shared.arrivals.datagrams.fetch_add(sunk, Relaxed);
    }
    if let Some(client) = client {
        shared.last_client.store(client.ip().to_bits(), Relaxed);
    }
    let wanted = |(datagram, _): &(&[u8], _)| datagram.first() == Some(&ECHO);
    batch::send(socket, batch.all().filter(wanted));
    Ok(more)
}
