//! What a balancer may say in datagrams, right and wrong, the same on every run.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::lab::addr::{FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::lab::header;
use crate::lab::random::Random;
use crate::lab::scale::scaled;
use crate::paths::differential::{client, damage, tlvs};

/// Of a balancer, each with clients of its own. With v2-first one that has named a client has little to say
/// that could be refused: the more scripts, the more of them.
pub fn sockets() -> usize {
    scaled(32, 1024)
}

/// Bytes of a datagram that comes alone if it is longer.
const LONG: usize = 10_000;

pub type Family = fn(Pair, u16) -> SocketAddr;

/// The datagrams of one of a balancer's sockets that are sent at once.
pub struct Script {
    pub socket: usize,
    pub datagrams: Vec<Vec<u8>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by socket {}:", self.socket)?;
        for one in &self.datagrams {
            let start = &one[..one.len().min(80)];
            write!(f, " {} bytes, {start:02x?}", one.len())?;
        }
        Ok(())
    }
}

pub struct Author {
    random: Random,
    framing: Framing,
    families: [Family; 2],
    /// Of each socket, in both families.
    clients: Vec<[SocketAddr; 2]>,
}

impl Author {
    /// The balancer's family comes first.
    pub fn new(seed: u64, framing: Framing, families: [Family; 2]) -> Self {
        let mut random = Random::new(seed);
        let of_both = |_| families.map(|of| client(&mut random, of(FRONT, 0)));
        let clients = (0..sockets()).map(of_both).collect();
        Self {
            random,
            framing,
            families,
            clients,
        }
    }

    pub fn script(&mut self) -> Script {
        let socket = self.random.below(sockets());
        let length = self.length();
        // More of the long ones than one would overflow a socket's buffer.
        let count = match length {
            0..=LONG => *self.random.pick(&[1, 1, 1, 1, 1, 2, 3]),
            _ => 1,
        };
        let one = |number| {
            // Two headers of v2-first at once would be a race for whom the socket speaks for.
            let mut datagram = match self.framing {
                Framing::V2First if number > 0 => Vec::new(),
                _ => self.header(socket),
            };
            if !datagram.is_empty() && self.random.happens(150) {
                damage(&mut self.random, &mut datagram);
            }
            datagram.extend(std::iter::repeat_with(|| self.random.byte()).take(length));
            datagram
        };
        let datagrams = (0..count).map(one).collect();
        Script { socket, datagrams }
    }

    /// Few bytes, around what a packet takes, and several packets.
    fn length(&mut self) -> usize {
        const SHORT: [usize; 7] = [0, 1, 2, 3, 100, 512, 1000];
        let (start, spread) = match self.random.below(10) {
            0..6 => (*self.random.pick(&SHORT), 5),
            6..8 => (1380, 120),
            8 => (1500, 7000),
            _ => (20_000, 39_000),
        };
        start + self.random.below(spread)
    }

    fn header(&mut self, socket: usize) -> Vec<u8> {
        let of = usize::from(self.random.happens(100));
        let front = self.families[of](FRONT, FRONT_PORT);
        let client = match self.random.happens(300) {
            true => client(&mut self.random, front),
            false => self.clients[socket][of],
        };
        match self.framing {
            Framing::V2First if self.random.happens(600) => Vec::new(),
            Framing::V2 | Framing::Any | Framing::V2First => self.v2(client, front),
            Framing::Spp => self.spp(client, front),
        }
    }

    fn v2(&mut self, client: SocketAddr, front: SocketAddr) -> Vec<u8> {
        match self.random.below(16) {
            0..5 => datagram::v2(client, front, &[]),
            5..8 => datagram::v2(client, front, &tlvs(&mut self.random)),
            8 => datagram::v2(client, front, &self.long_tlv()),
            9..11 => with_crc(datagram::v2(client, front, &with_room(&mut self.random))),
            11..13 => self.of_nobody(),
            13 => self.impossible(client, front, |client, front| {
                datagram::v2(client, front, &[])
            }),
            14 => header::v2(0x21, client, front, &[]),
            _ => self.of_another_kind(client, front),
        }
    }

    fn spp(&mut self, client: SocketAddr, front: SocketAddr) -> Vec<u8> {
        match self.random.below(12) {
            0..10 => datagram::spp(client, front),
            10 => self.impossible(client, front, datagram::spp),
            _ => self.of_another_kind(client, front),
        }
    }

    /// LOCAL, or without addresses.
    fn of_nobody(&mut self) -> Vec<u8> {
        let command = *self.random.pick(&[0x20, 0x20, 0x21]);
        let family = match command {
            0x20 => *self.random.pick(&[0, 0x11, 0x12, 0x22, 0x32]),
            _ => 0,
        };
        let length = *self.random.pick(&[0, 0, 3, 12, 40]);
        let mut block = vec![0; length];
        if length >= 3 {
            // NOOP, as long as the rest.
            block[0] = 4;
            block[2] = u8::try_from(length - 3).expect("a short one");
        }
        header::v2_raw(command, family, &block)
    }

    fn impossible(
        &mut self,
        client: SocketAddr,
        front: SocketAddr,
        header: fn(SocketAddr, SocketAddr) -> Vec<u8>,
    ) -> Vec<u8> {
        let multicast: [IpAddr; 2] = [
            Ipv4Addr::new(224, 0, 0, 9).into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 9).into(),
        ];
        let port = client.port();
        let multicast = multicast[usize::from(front.is_ipv6())];
        let all = [
            HOST.like(front, port),
            LOOPBACK.like(front, port),
            WILDCARD.like(front, port),
            (multicast, port).into(),
            (client.ip(), 0).into(),
        ];
        header(*self.random.pick(&all), front)
    }

    /// Of a stream, of another protocol, or none.
    fn of_another_kind(&mut self, client: SocketAddr, front: SocketAddr) -> Vec<u8> {
        match self.random.below(4) {
            0 => format!(
                "PROXY TCP4 {} {} {} {}\r\n",
                client.ip(),
                front.ip(),
                client.port(),
                front.port()
            )
            .into_bytes(),
            1 => header::v2_raw(0x21, 0x32, &[7; 216]),
            2 => match self.framing {
                Framing::V2 | Framing::Any | Framing::V2First => datagram::spp(client, front),
                Framing::Spp => datagram::v2(client, front, &[]),
            },
            _ => Vec::new(),
        }
    }

    /// Longer than what the programs read, or longer than any header may be.
    fn long_tlv(&mut self) -> Vec<u8> {
        let length = *self.random.pick(&[190, 250, 400, 1000, 3900, 4600]) + self.random.below(200);
        let value = u16::try_from(length).expect("a small number");
        let mut tlv = vec![0xe1];
        tlv.extend(value.to_be_bytes());
        tlv.resize(3 + length, 7);
        tlv
    }
}

/// CRC32C, still zero, and perhaps something before it.
fn with_room(random: &mut Random) -> Vec<u8> {
    let before = random.below(40);
    let mut tlvs = vec![4, 0, u8::try_from(before).expect("a short one")];
    tlvs.resize(3 + before, 0);
    tlvs.extend([3, 0, 4, 0, 0, 0, 0]);
    tlvs
}

/// Its last four bytes are for the checksum.
fn with_crc(mut header: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&header).to_be_bytes();
    let at = header.len() - crc.len();
    header[at..].copy_from_slice(&crc);
    header
}
