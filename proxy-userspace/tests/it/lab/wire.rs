//! What senders really put on the wire: the test listens in beside truepeer.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Netns;

/// `ETH_P_ALL` of linux/if_ether.h, in network order as packet(7) wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
const TCP: u8 = 6;
const SYN: u8 = 0x02;

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
        // DGRAM: packets without the header of the link layer
        let packets = || {
            Socket::new(
                Domain::PACKET,
                Type::DGRAM,
                Some(Protocol::from(EVERYTHING)),
            )
        };
        let socket = netns.enter(packets).context("listening to all packets")?;
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
        let Some(segment) = Segment::parse(packet).filter(|segment| segment.to == self.port) else {
            return;
        };
        if segment.syn {
            self.connections.push(Connection {
                source: segment.source,
                segments: Vec::new(),
                next: segment.number.wrapping_add(1),
            });
            return;
        }
        // The last one: a port may have been used before.
        let mut open = self.connections.iter_mut().rev();
        if let Some(connection) = open.find(|connection| connection.source == segment.source)
            && connection.next == segment.number
            && !segment.payload.is_empty()
        {
            let len = u32::try_from(segment.payload.len()).expect("at most 16 bits");
            connection.next = connection.next.wrapping_add(len);
            connection.segments.push(segment.payload.to_vec());
        }
    }
}

struct Segment<'a> {
    source: SocketAddr,
    to: u16,
    number: u32,
    syn: bool,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// `None` for anything but TCP.
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let (source, tcp) = match packet.first()? >> 4 {
            4 => {
                let ip = packet.first_chunk::<20>()?;
                let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                let tcp = packet.get(usize::from(ip[0] & 0x0f) * 4..total)?;
                let source = Ipv4Addr::from(*ip[12..].first_chunk::<4>()?);
                (ip[9] == TCP).then_some((source.into(), tcp))?
            }
            6 => {
                let ip = packet.first_chunk::<40>()?;
                let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                let source = Ipv6Addr::from(*ip[8..].first_chunk::<16>()?);
                (ip[6] == TCP).then_some((source.into(), packet.get(40..40 + len)?))?
            }
            _ => return None,
        };
        let head = tcp.first_chunk::<20>()?;
        Some(Self {
            source: SocketAddr::new(source, u16::from_be_bytes([head[0], head[1]])),
            to: u16::from_be_bytes([head[2], head[3]]),
            number: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            syn: head[13] & SYN != 0,
            payload: tcp.get(usize::from(head[12] >> 4) * 4..)?,
        })
    }
}
