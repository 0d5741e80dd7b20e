//! The app behind every contender: two threads for all of them, as only one is measured at a time.
//! A connection's first byte says what it wants.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::netns::Netns;

/// Bytes are counted and thrown away.
pub const SINK: u8 = b'S';
/// Sends for as long as anybody takes it.
pub const FLOOD: u8 = b'F';
/// Sends back what it gets.
pub const ECHO: u8 = b'E';
/// Sends back the first message and closes.
pub const ONCE: u8 = b'O';

const THREADS: usize = 2;
const BUFFER: usize = 512 * 1024;
/// Turns in a row for one connection, so that it doesn't keep the thread for itself.
const TURNS: usize = 8;
/// Marks a listener in an event's data; the rest is its number.
const LISTENER: u64 = 1 << 63;

type Listeners = Arc<RwLock<Vec<Arc<TcpListener>>>>;

pub struct App {
    epolls: Vec<Arc<OwnedFd>>,
    listeners: Listeners,
    received: Arc<AtomicU64>,
}

struct Worker {
    epoll: Arc<OwnedFd>,
    listeners: Listeners,
    received: Arc<AtomicU64>,
    flags: RecvFlags,
    buffer: Vec<u8>,
    /// By the number in the event's data.
    open: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    wants: Option<u8>,
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
            listeners: Listeners::default(),
            received: Arc::default(),
        };
        for epoll in &app.epolls {
            let mut worker = Worker {
                epoll: epoll.clone(),
                listeners: app.listeners.clone(),
                received: app.received.clone(),
                flags: sink_flags(copy) | RecvFlags::DONTWAIT,
                buffer: vec![1; BUFFER],
                open: Vec::new(),
                free: Vec::new(),
            };
            thread::spawn(move || worker.work());
        }
        Ok(app)
    }

    pub fn listen(&self, netns: &Netns, address: SocketAddr) -> Result<()> {
        let listener = netns.enter(|| listener(address));
        let listener = Arc::new(listener.with_context(|| format!("listening at {address}"))?);
        let mut all = self
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
        self.received.load(Relaxed)
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

impl Worker {
    fn work(&mut self) -> Errno {
        let mut events: Vec<Event> = Vec::with_capacity(64);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return error,
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    token if token & LISTENER != 0 => self.accept(token & !LISTENER),
                    token => self.serve(usize::try_from(token).unwrap_or(usize::MAX)),
                }
            }
        }
    }

    /// One at a time: the other thread shall have its share.
    fn accept(&mut self, listener: u64) {
        let all = self
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let listener = usize::try_from(listener)
            .ok()
            .and_then(|n| all.get(n))
            .cloned();
        drop(all);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let Some(Ok(socket)) = listener.map(|listener| accept_with(listener, flags)) else {
            return;
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() - 1
        });
        let token = EventData::new_u64(slot as u64);
        if epoll::add(&self.epoll, &socket, token, EventFlags::IN).is_ok() {
            self.open[slot] = Some(Connection {
                socket,
                wants: None,
            });
            // Most have sent already.
            self.serve(slot);
        } else {
            self.free.push(slot);
        }
    }

    fn serve(&mut self, slot: usize) {
        let Some(mut connection) = self.open.get_mut(slot).and_then(Option::take) else {
            return;
        };
        match self.turns(&mut connection, slot) {
            Err(Errno::AGAIN) | Ok(()) => self.open[slot] = Some(connection),
            // Dropped, and with that closed.
            Err(_) => self.free.push(slot),
        }
    }

    fn turns(&mut self, connection: &mut Connection, slot: usize) -> Result<(), Errno> {
        for _ in 0..TURNS {
            match connection.wants {
                None => self.first(connection, slot)?,
                Some(FLOOD) => drop(send(&connection.socket, &self.buffer, SendFlags::NOSIGNAL)?),
                Some(SINK) => self.sink(connection)?,
                Some(_) => {
                    self.echo(connection)?;
                    // Nothing more can be there before the answer has arrived.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn first(&mut self, connection: &mut Connection, slot: usize) -> Result<(), Errno> {
        let got = receive(
            connection,
            &mut self.buffer[..1],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        )?;
        debug_assert_eq!(got, 1);
        connection.wants = Some(self.buffer[0]);
        if connection.wants == Some(FLOOD) {
            let token = EventData::new_u64(slot as u64);
            epoll::modify(&self.epoll, &connection.socket, token, EventFlags::OUT)?;
        }
        Ok(())
    }

    fn sink(&mut self, connection: &Connection) -> Result<(), Errno> {
        let got = receive(connection, &mut self.buffer, self.flags)?;
        self.received.fetch_add(got as u64, Relaxed);
        Ok(())
    }

    fn echo(&mut self, connection: &Connection) -> Result<(), Errno> {
        let got = receive(connection, &mut self.buffer, RecvFlags::DONTWAIT)?;
        send(&connection.socket, &self.buffer[..got], SendFlags::NOSIGNAL)?;
        match connection.wants {
            Some(ONCE) => Err(Errno::SHUTDOWN),
            _ => Ok(()),
        }
    }
}

/// The end of a stream is an error too: either way the connection is over.
fn receive(connection: &Connection, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    match recv(&connection.socket, buffer, flags)? {
        (_, 0) => Err(Errno::SHUTDOWN),
        (_, got) => Ok(got),
    }
}
