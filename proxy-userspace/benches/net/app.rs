//! The app behind every contender: two threads for all of them, as only one is measured at a time.
//! A connection's first byte says what it wants.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use anyhow::{Context, Result};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::netns::Netns;
use crate::worker::Worker;

/// Bytes are counted and thrown away.
pub const SINK: u8 = b'S';
/// Sends for as long as anybody takes it.
pub const FLOOD: u8 = b'F';
/// Sends back what it gets.
pub const ECHO: u8 = b'E';
/// Sends back the first message and closes.
pub const ONCE: u8 = b'O';

const THREADS: usize = 2;
/// Marks a listener in an event's data; the rest is its number.
pub const LISTENER: u64 = 1 << 63;

pub struct App {
    epolls: Vec<Arc<OwnedFd>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
pub struct Shared {
    pub listeners: RwLock<Vec<Arc<TcpListener>>>,
    /// Bytes of all sinks.
    pub received: AtomicU64,
    /// Whom the last connection came from, as bits.
    pub last_client: AtomicU32,
}

/// How streams are received: read, or only counted.
pub fn sink_flags(copy: bool) -> RecvFlags {
    if copy {
        RecvFlags::empty()
    } else {
        RecvFlags::TRUNC
    }
}

impl App {
    pub fn start(copy: bool) -> Result<Self> {
        let epolls = (0..THREADS).map(|_| Ok(Arc::new(epoll::create(CreateFlags::CLOEXEC)?)));
        let app = Self {
            epolls: epolls.collect::<io::Result<_>>()?,
            shared: Arc::default(),
        };
        for epoll in &app.epolls {
            let mut worker = Worker::new(epoll.clone(), app.shared.clone(), sink_flags(copy));
            thread::spawn(move || worker.work());
        }
        Ok(app)
    }

    pub fn listen(&self, netns: &Netns, address: SocketAddr) -> Result<()> {
        let listener = netns.enter(|| listener(address));
        let listener = Arc::new(listener.with_context(|| format!("listening at {address}"))?);
        let mut all = self
            .shared
            .listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let token = EventData::new_u64(LISTENER | all.len() as u64);
        all.push(listener.clone());
        for epoll in &self.epolls {
            epoll::add(
                epoll,
                &listener,
                token,
                EventFlags::IN | EventFlags::EXCLUSIVE,
            )?;
        }
        Ok(())
    }

    /// Bytes of all sinks so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// Whom the last connection came from.
    pub fn last_client(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.shared.last_client.load(Relaxed))
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
