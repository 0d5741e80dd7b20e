//! The app behind every contender: two threads for all of them, as only one is measured at a time.
//! A connection's first byte says what it wants, and so does a datagram's. Several apps can listen at one address.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::lab::netns::Netns;
use crate::udp;
use crate::udp::app::Arrivals;
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
/// For a proxy to see that connections are over.
const PATIENCE: Duration = Duration::from_secs(10);
/// Marks a listener in an event's data; the rest is its number.
pub const LISTENER: u64 = 1 << 63;
/// The same of a socket for datagrams.
pub const DATAGRAMS: u64 = 1 << 62;
/// The event that ends a thread.
pub const OVER: u64 = u64::MAX;

/// Ends when dropped, with all its connections.
pub struct App {
    epolls: Vec<Arc<OwnedFd>>,
    shared: Arc<Shared>,
    over: OwnedFd,
    threads: Vec<JoinHandle<Errno>>,
}

#[derive(Default)]
pub struct Shared {
    /// By number. Without a listener, while it is paused.
    pub listeners: RwLock<Vec<Option<Arc<TcpListener>>>>,
    /// Bytes of all sinks.
    pub received: AtomicU64,
    pub open: AtomicUsize,
    /// Of datagrams, by number: each thread's one at each address.
    pub sockets: RwLock<Vec<UdpSocket>>,
    pub arrivals: Arrivals,
    /// Whom the last connection or datagram came from, as bits.
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
        let mut app = Self {
            epolls: epolls.collect::<io::Result<_>>()?,
            shared: Arc::default(),
            over: eventfd(0, EventfdFlags::CLOEXEC)?,
            threads: Vec::new(),
        };
        for epoll in &app.epolls {
            epoll::add(epoll, &app.over, EventData::new_u64(OVER), EventFlags::IN)?;
            let (epoll, shared) = (epoll.clone(), app.shared.clone());
            let work = move || Worker::new(epoll, shared, sink_flags(copy)).work();
            app.threads.push(thread::spawn(work));
        }
        Ok(app)
    }

    pub fn listen(&self, netns: &Netns, address: SocketAddr) -> Result<Port> {
        let port = Port {
            netns: netns.clone(),
            address,
            number: self.listeners().len(),
        };
        self.listeners().push(None);
        self.resume(&port)?;
        Ok(port)
    }

    /// Lets other apps have what comes to the address. Only while nobody is connecting.
    pub fn pause(&self, port: &Port) {
        if let Some(listener) = self.listeners()[port.number].take() {
            // Closed, it would go on in tables of descriptors that were copied from this one.
            let _ = SockRef::from(&*listener).shutdown(Shutdown::Both);
        }
    }

    pub fn resume(&self, port: &Port) -> Result<()> {
        let listener = port.netns.enter(|| listener(port.address));
        let listener = listener.with_context(|| format!("listening at {}", port.address))?;
        let token = EventData::new_u64(LISTENER | port.number as u64);
        for epoll in &self.epolls {
            let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
            epoll::add(epoll, &listener, token, flags)?;
        }
        self.listeners()[port.number] = Some(Arc::new(listener));
        Ok(())
    }

    /// Answers datagrams there.
    pub fn answer(&self, netns: &Netns, address: SocketAddr) -> Result<()> {
        let mut all = self.shared.sockets.write();
        let all = all
            .as_mut()
            .map_err(|_| anyhow!("a thread of the app has failed"))?;
        for epoll in &self.epolls {
            let socket = netns.enter(|| udp::app::socket(address));
            let socket = socket.with_context(|| format!("a socket at {address}"))?;
            let token = EventData::new_u64(DATAGRAMS | all.len() as u64);
            epoll::add(epoll, &socket, token, EventFlags::IN)?;
            all.push(socket);
        }
        Ok(())
    }

    fn listeners(&self) -> RwLockWriteGuard<'_, Vec<Option<Arc<TcpListener>>>> {
        let all = self.shared.listeners.write();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the other sides have ended all its connections.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let open = || self.shared.open.load(Relaxed);
        while open() > 0 {
            ensure!(
                Instant::now() < deadline,
                "{} connections were not ended",
                open()
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Bytes of all sinks so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// What has come to sinks by datagrams.
    pub fn arrivals(&self) -> &Arrivals {
        &self.shared.arrivals
    }

    /// Whom the last connection or datagram came from.
    pub fn last_client(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.shared.last_client.load(Relaxed))
    }
}

/// Where an app listens.
pub struct Port {
    netns: Netns,
    address: SocketAddr,
    number: usize,
}

impl Drop for App {
    fn drop(&mut self) {
        // It fails only where it has been written to before.
        let _ = rustix::io::write(&self.over, &1_u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
