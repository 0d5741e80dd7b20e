//! A thread of the app: one epoll, all that its connections and datagrams want.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};

use crate::app::{DATAGRAMS, FLOOD, LISTENER, ONCE, OVER, SINK, Shared};
use crate::udp::app;
use crate::udp::batch::Batch;

const BUFFER: usize = 512 * 1024;
/// Turns in a row for one connection, so that it doesn't keep the thread for itself.
const TURNS: usize = 8;

pub struct Worker {
    epoll: Arc<OwnedFd>,
    shared: Arc<Shared>,
    flags: RecvFlags,
    buffer: Vec<u8>,
    batch: Batch,
    /// By the number in the event's data.
    open: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    wants: Option<u8>,
}

impl Worker {
    pub fn new(epoll: Arc<OwnedFd>, shared: Arc<Shared>, sink: RecvFlags) -> Self {
        Self {
            epoll,
            shared,
            flags: sink | RecvFlags::DONTWAIT,
            buffer: vec![1; BUFFER],
            batch: Batch::new(),
            open: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Until the app is over.
    pub fn work(&mut self) -> Errno {
        let mut events: Vec<Event> = Vec::with_capacity(64);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return error,
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    OVER => return Errno::CANCELED,
                    token if token & LISTENER != 0 => self.accept(token & !LISTENER),
                    token if token & DATAGRAMS != 0 => self.answer(token & !DATAGRAMS),
                    token => self.serve(usize::try_from(token).unwrap_or(usize::MAX)),
                }
            }
        }
    }

    /// One at a time: the other thread shall have its share.
    fn accept(&mut self, listener: u64) {
        let all = self
            .shared
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let listener = usize::try_from(listener)
            .ok()
            .and_then(|n| all.get(n))
            .and_then(Option::clone);
        drop(all);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = listener.map(|listener| acceptfrom_with(listener, flags));
        let Some(Ok((socket, client))) = accepted else {
            return;
        };
        if let Some(Ok(client)) = client.map(SocketAddrV4::try_from) {
            self.shared
                .last_client
                .store(client.ip().to_bits(), Relaxed);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() - 1
        });
        let token = EventData::new_u64(slot as u64);
        if epoll::add(&self.epoll, &socket, token, EventFlags::IN).is_ok() {
            self.shared.open.fetch_add(1, Relaxed);
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

    fn answer(&mut self, socket: u64) {
        let all = self
            .shared
            .sockets
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = usize::try_from(socket).ok().and_then(|n| all.get(n)) else {
            return;
        };
        for _ in 0..TURNS {
            match app::turn(socket, &mut self.batch, &self.shared) {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
        }
    }

    fn serve(&mut self, slot: usize) {
        let Some(mut connection) = self.open.get_mut(slot).and_then(Option::take) else {
            return;
        };
        match self.turns(&mut connection, slot) {
            Err(Errno::AGAIN) | Ok(()) => self.open[slot] = Some(connection),
            // Dropped, and with that closed.
            Err(_) => {
                self.shared.open.fetch_sub(1, Relaxed);
                self.free.push(slot);
            }
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
        self.shared.received.fetch_add(got as u64, Relaxed);
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
