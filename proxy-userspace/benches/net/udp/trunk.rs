//! A socket of the balancer's, and the clients whose datagrams it brings.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result};
use truepeer::header::{Endpoints, V2Builder, spp};

use super::batch::{self, Batch};
use super::message::Message;
use crate::dial::{self, Dialer};
use crate::kind::Kind;
use crate::protocol::{Framing, Protocol};
use crate::site::Site;

/// Clients of one socket: several, as balancers have it, but enough sockets for a contender to spread
/// them over its threads.
pub const CLIENTS: u16 = 8;

/// What all datagrams of a load are like.
#[derive(Clone, Copy)]
pub struct Payload {
    /// Its first byte.
    pub wish: u8,
    pub len: usize,
}

pub struct Trunk {
    pub socket: UdpSocket,
    pub clients: Vec<Client>,
    payload: Payload,
}

pub struct Client {
    pub flow: u16,
    /// Of the last datagram that was sent.
    pub number: u64,
    /// As many as go by one call, so that a call of each trunk's has as many.
    datagrams: Vec<Vec<u8>>,
}

impl Trunk {
    /// As many as it takes, each with its share of the flows.
    pub fn of(site: &Site, flows: usize, payload: Payload) -> Result<Vec<Self>> {
        let dialer = site.dialer();
        let framing = match (site.kind, site.protocol) {
            (Kind::Direct, _) | (_, Protocol::Tcp) => None,
            (_, Protocol::Udp(framing)) => Some(framing),
        };
        let flows = u16::try_from(flows)?;
        let clients = match framing {
            Some(Framing::V2First) => 1,
            _ => CLIENTS,
        };
        let firsts = (0..flows).step_by(usize::from(clients));
        let each = firsts.map(|first| first..flows.min(first + clients));
        each.map(|flows| Self::open(&dialer, framing, flows, payload))
            .collect()
    }

    fn open(
        dialer: &Dialer,
        framing: Option<Framing>,
        flows: Range<u16>,
        payload: Payload,
    ) -> Result<Self> {
        let port = match framing {
            Some(Framing::V2First) => next_port(),
            _ => 0,
        };
        let any = (Ipv4Addr::UNSPECIFIED, port);
        let socket = dialer.place.enter(|| UdpSocket::bind(any))?;
        socket.connect(dialer.target).context("connecting")?;
        let copies = usize::from(CLIENTS).div_ceil(flows.len());
        let client = |flow| {
            let datagram = datagram(framing, dialer.target, payload)?;
            Ok(Client {
                flow,
                number: 0,
                datagrams: vec![datagram; copies],
            })
        };
        Ok(Self {
            socket,
            clients: flows.map(client).collect::<Result<_>>()?,
            payload,
        })
    }

    /// The next datagrams of each client, by its place here: as many as are due, or go by one call. Returns how
    /// many there were.
    pub fn send(&mut self, due: impl Fn(usize) -> usize) -> usize {
        let mut all = Vec::with_capacity(usize::from(CLIENTS));
        for (place, client) in self.clients.iter_mut().enumerate() {
            for datagram in client.datagrams.iter_mut().take(due(place)) {
                client.number += 1;
                let message = Message {
                    flow: client.flow,
                    number: client.number,
                };
                let at = datagram.len() - self.payload.len;
                message.write(&mut datagram[at..]);
                all.push((&datagram[..], None));
            }
        }
        let count = all.len();
        batch::send(&self.socket, all.into_iter());
        count
    }

    /// Takes what has come, and tells of each answer to the last datagram of a client's, by the client's
    /// place here. Of others nobody waits for one any more.
    pub fn receive(&self, batch: &mut Batch, mut answered: impl FnMut(usize)) -> io::Result<()> {
        loop {
            let more = batch.receive(&self.socket)?;
            for (reply, _) in batch.all() {
                // With SPP its header is in front.
                let payload = reply.len().checked_sub(self.payload.len);
                let message = payload.and_then(|at| Message::read(&reply[at..]));
                let is_its = |client: &Client| message == Some(client.last());
                let place = self.clients.iter().position(is_its);
                place.into_iter().for_each(&mut answered);
            }
            if !more {
                return Ok(());
            }
        }
    }
}

impl Client {
    fn last(&self) -> Message {
        Message {
            flow: self.flow,
            number: self.number,
        }
    }
}

/// One that no socket has had for long: with v2-first, who has had it speaks for whom it spoke for.
fn next_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut ports = 1024..=u16::MAX;
    let next = NEXT.fetch_add(1, Relaxed) % ports.len();
    ports.nth(next).expect("one of them")
}

/// Without its message; the client is one that nobody else is.
fn datagram(framing: Option<Framing>, target: SocketAddr, payload: Payload) -> Result<Vec<u8>> {
    let endpoints = Endpoints {
        source: dial::next_client(),
        destination: target,
    };
    let mut datagram = match framing {
        None => Vec::new(),
        Some(Framing::V2 | Framing::V2First) => V2Builder::datagram(&endpoints).build()?,
        Some(Framing::Spp) => spp::write(&endpoints).to_vec(),
    };
    let header = datagram.len();
    datagram.resize(header + payload.len, 0);
    datagram[header] = payload.wish;
    Ok(datagram)
}
