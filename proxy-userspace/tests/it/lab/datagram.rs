//! Senders of datagrams with headers, and an app that answers them, written here and not by the product.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{BindToDevice, UdpGsoSegment};
use socket2::{Domain, Socket, Type};

use super::header;
use super::netns::Netns;
use super::poll;
use super::scale::scaled;

/// As large as a datagram gets.
const LARGEST: usize = 1 << 16;
/// Between two looks whether a thread shall end.
pub const TICK: Duration = Duration::from_millis(50);

/// What a balancer puts in front of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    V2,
    /// The same, which the daemon is told to find out.
    Any,
    V2First,
    Spp,
}

impl Framing {
    pub const ALL: [Self; 3] = [Self::V2, Self::V2First, Self::Spp];

    /// For what goes by the same code whatever the framing: one of them on every run.
    pub fn scaled() -> &'static [Self] {
        &Self::ALL[..scaled(1, Self::ALL.len())]
    }

    /// Of `truepeer run`.
    pub const fn args(self) -> [&'static str; 4] {
        let header = match self {
            Self::V2 => "v2",
            Self::Any => "any",
            Self::V2First => "v2-first",
            Self::Spp => "spp",
        };
        ["--protocol", "udp", "--header", header]
    }

    /// In front of a datagram of `client`, who has sent it to `front`.
    pub fn header(self, client: SocketAddr, front: SocketAddr) -> Vec<u8> {
        match self {
            Self::V2 | Self::Any | Self::V2First => v2(client, front, &[]),
            Self::Spp => spp(client, front),
        }
    }

    /// In front of a reply to it.
    pub fn reply_header(self, client: SocketAddr, front: SocketAddr) -> Vec<u8> {
        match self {
            Self::V2 | Self::Any | Self::V2First => Vec::new(),
            Self::Spp => spp(client, front),
        }
    }
}

/// PROXY, over UDP.
pub fn v2(client: SocketAddr, front: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    const FAMILY_AT: usize = 13;
    let mut stream = header::v2(0x21, client, front, tlvs);
    stream[FAMILY_AT] += 1;
    stream
}

/// Of Cloudflare's Simple Proxy Protocol.
pub fn spp(client: SocketAddr, front: SocketAddr) -> Vec<u8> {
    let octets = |ip| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    [
        &[0x56, 0xec][..],
        &octets(client.ip()),
        &octets(front.ip()),
        &client.port().to_be_bytes(),
        &front.port().to_be_bytes(),
    ]
    .concat()
}

/// A socket at `bind`, whose reads fail after the deadline of all tests.
pub fn socket(netns: &Netns, bind: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.enter(|| UdpSocket::bind(bind));
    let socket = socket.with_context(|| format!("binding {bind}"))?;
    socket.set_read_timeout(Some(poll::PATIENCE))?;
    Ok(socket)
}

/// The next datagram, with its sender.
pub fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; LARGEST];
    let (len, from) = socket.recv_from(&mut buffer).context("no datagram")?;
    buffer.truncate(len);
    Ok((buffer, from))
}

/// How an app has its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One for all clients.
    Unconnected,
    /// One for each client, which is connected to it.
    Connected,
}

/// Sends back what it gets, once it has told of it. Ends when dropped.
pub struct Echo {
    socket: UdpSocket,
    seen: Receiver<(SocketAddr, Vec<u8>)>,
    ends: Arc<AtomicBool>,
    running: Option<JoinHandle<Result<()>>>,
}

impl Echo {
    pub fn listen(netns: &Netns, bind: SocketAddr, kind: Kind) -> Result<Self> {
        Self::by(netns, shared(netns, bind)?, kind)
    }

    /// By one device alone.
    pub fn by_device(netns: &Netns, bind: SocketAddr, device: &str) -> Result<Self> {
        let socket = shared(netns, bind)?;
        netns.enter(|| setsockopt(&socket, BindToDevice, &device.into()))?;
        Self::by(netns, socket, Kind::Unconnected)
    }

    /// One of several at the same address, among which the kernel shares out clients (SO_REUSEPORT).
    pub fn one_of_several(netns: &Netns, bind: SocketAddr) -> Result<Self> {
        let socket = open(netns, bind, |socket| socket.set_reuse_port(true))?;
        Self::by(netns, socket, Kind::Unconnected)
    }

    /// By a socket of the row's own.
    pub fn by(netns: &Netns, socket: UdpSocket, kind: Kind) -> Result<Self> {
        let bind = socket.local_addr()?;
        let same = socket.try_clone()?;
        let (tell, seen) = channel();
        let ends = Arc::new(AtomicBool::new(false));
        let (over, netns) = (ends.clone(), netns.clone());
        let running = std::thread::spawn(move || {
            let mut open = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let mut buffer = vec![0; LARGEST];
                let (len, client) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if is_timeout(&error) => continue,
                    Err(error) => return Err(error).context("the app receives"),
                };
                let words = &buffer[..len];
                // Nobody may be interested.
                let _ = tell.send((client, words.to_vec()));
                match kind {
                    Kind::Unconnected => socket.send_to(words, client).map(drop),
                    Kind::Connected => {
                        let one = shared(&netns, bind)?;
                        let sent = one.connect(client).and_then(|()| one.send(words));
                        open.push(one);
                        sent.map(drop)
                    }
                }
                .with_context(|| format!("the app answers {client}"))?;
            }
            Ok(())
        });
        Ok(Self {
            socket: same,
            seen,
            ends,
            running: Some(running),
        })
    }

    /// The next datagram, with its client.
    pub fn next(&self) -> Result<(SocketAddr, Vec<u8>)> {
        let next = self.seen.recv_timeout(poll::PATIENCE);
        next.context("the app gets a datagram")
    }

    /// The same without waiting for one.
    pub fn next_now(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.seen.try_recv().ok()
    }

    /// Says something unasked.
    pub fn say(&self, client: SocketAddr, words: &[u8]) -> Result<()> {
        self.socket.send_to(words, client)?;
        Ok(())
    }

    /// From now on it answers by several datagrams of this size at once (UDP_SEGMENT).
    pub fn segment(&self, size: u16) -> Result<()> {
        segment(&self.socket, size)
    }

    /// Whether it has got none that [`Self::next`] hasn't told of.
    pub fn saw_nobody(&self) -> Result<()> {
        let next = self.next_now();
        ensure!(next.is_none(), "the app got {next:?}");
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

/// What is sent by one call leaves as datagrams of this size.
pub fn segment(socket: &UdpSocket, size: u16) -> Result<()> {
    setsockopt(socket, UdpGsoSegment, &size.into()).context("UDP_SEGMENT")
}

pub fn is_timeout(error: &io::Error) -> bool {
    // An earlier reply's port was unreachable, or the kernel had something else for the thread to do, which ends what
    // waits with a time limit.
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted
    )
}

/// Others may be at the same address.
pub fn shared(netns: &Netns, bind: SocketAddr) -> Result<UdpSocket> {
    open(netns, bind, |socket| socket.set_reuse_address(true))
}

fn open(
    netns: &Netns,
    bind: SocketAddr,
    share: fn(&Socket) -> io::Result<()>,
) -> Result<UdpSocket> {
    let socket = netns.enter(|| -> io::Result<_> {
        let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, None)?;
        share(&socket)?;
        socket.bind(&bind.into())?;
        Ok(UdpSocket::from(socket))
    })?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}
