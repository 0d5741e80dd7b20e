//! What senders really put on the wire: the test listens in beside truepeer.

use std::io::{self, Read};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use socket2::Socket;

use super::forge::{SYN, Segment};
use super::netns::Netns;
use super::raw;

/// Every connection to one port of a namespace, from the moment of [`Wire::tap`].
pub struct Wire {
    socket: Socket,
    port: u16,
    connections: Vec<Connection>,
}

/// What the side that connects has sent so far.
#[derive(Clone, Debug)]
pub struct Connection {
    pub source: SocketAddr,
    /// As they came, with what was sent twice left out.
    pub segments: Vec<Vec<u8>>,
    /// The sequence number of the next byte.
    next: u32,
}

impl Connection {
    pub fn bytes(&self) -> Vec<u8> {
        self.segments.concat()
    }

    /// The sequence number of what it sends next.
    pub fn next(&self) -> u32 {
        self.next
    }
}

impl Wire {
    pub fn tap(netns: &Netns, port: u16) -> Result<Self> {
        let socket = raw::tap(netns)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            port,
            connections: Vec::new(),
        })
    }

    /// All of them up to now, in the order they were opened.
    pub fn connections(&mut self) -> Result<&[Connection]> {
        // the largest packet that the kernel hands from one veth end to the other
        let mut packet = vec![0; 1 << 16];
        loop {
            match self.socket.read(&mut packet) {
                Ok(len) => self.take(packet.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("reading packets"),
            }
        }
        Ok(&self.connections)
    }

    fn take(&mut self, packet: &[u8]) {
        let segment = Segment::parse(packet).filter(|segment| segment.to.port() == self.port);
        let Some(segment) = segment else {
            return;
        };
        if segment.flags & SYN != 0 {
            self.connections.push(Connection {
                source: segment.from,
                segments: Vec::new(),
                next: segment.number.wrapping_add(1),
            });
            return;
        }
        // The last one: a port may have been used before.
        let mut open = self.connections.iter_mut().rev();
        if let Some(connection) = open.find(|connection| connection.source == segment.from)
            && connection.next == segment.number
            && !segment.payload.is_empty()
        {
            let len = u32::try_from(segment.payload.len()).expect("at most 16 bits");
            connection.next = connection.next.wrapping_add(len);
            connection.segments.push(segment.payload.to_vec());
        }
    }
}
