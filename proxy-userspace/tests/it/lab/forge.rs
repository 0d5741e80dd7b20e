//! TCP segments that nobody's kernel has sent.

use std::net::{IpAddr, SocketAddr};

use super::packet::{Packet, TCP};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// What Linux asks for in a SYN: an MSS of 1460, SACK, timestamps and a window scale of 7.
pub const SYN_OPTIONS: &[u8] = &[
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// Bytes of a header without options.
const FIXED: usize = 20;

#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub number: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// As it is on the wire, before any scale.
    pub window: u16,
    /// Whole words of four bytes.
    pub options: &'a [u8],
    pub payload: &'a [u8],
    pub checksum: Checksum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    Wrong,
}

impl<'a> Segment<'a> {
    /// `None` for anything but TCP. The checksum is made anew, as a device may not have done so yet.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let packet = Packet::parse(packet).filter(|packet| packet.protocol == TCP)?;
        let head = packet.payload.first_chunk::<FIXED>()?;
        let pair = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let number = |at: usize| u32::from(pair(at)) << 16 | u32::from(pair(at + 2));
        let (options, payload) = packet.payload[FIXED..]
            .split_at_checked((usize::from(head[12] >> 4) * 4).checked_sub(FIXED)?)?;
        Some(Self {
            from: (packet.from, pair(0)).into(),
            to: (packet.to, pair(2)).into(),
            number: number(4),
            acknowledged: number(8),
            flags: head[13],
            window: pair(14),
            options,
            payload,
            checksum: Checksum::Right,
        })
    }
}

impl Segment<'_> {
    /// An empty one of no kind, from number 0 on, to be changed.
    pub const fn between(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            from,
            to,
            number: 0,
            acknowledged: 0,
            flags: 0,
            window: 8192,
            options: &[],
            payload: &[],
            checksum: Checksum::Right,
        }
    }

    /// The packet, with its IP header, behind what is in `to` already.
    pub fn write(&self, to: &mut Vec<u8>) {
        self.ip(to);
        self.tcp(to);
    }

    /// The packet in an Ethernet frame, by its destination's address and its source's.
    pub fn frame(&self, [to, from]: [[u8; 6]; 2]) -> Vec<u8> {
        let ethertype: u16 = if self.to.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut frame = [&to[..], &from, &ethertype.to_be_bytes()].concat();
        self.write(&mut frame);
        frame
    }

    fn ip(&self, to: &mut Vec<u8>) {
        let length = FIXED + self.options.len() + self.payload.len();
        let length = u16::try_from(length).expect("a small packet");
        let start = to.len();
        if self.to.is_ipv4() {
            let [high, low] = (20 + length).to_be_bytes();
            to.extend([0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP, 0, 0]);
        } else {
            let [high, low] = length.to_be_bytes();
            to.extend([0x60, 0, 0, 0, high, low, TCP, 64]);
        }
        self.addresses(to);
        if self.to.is_ipv4() {
            let sum = checksum(sum(&to[start..]));
            to[start + 10..start + 12].copy_from_slice(&sum);
        }
    }

    fn tcp(&self, to: &mut Vec<u8>) {
        let mut pseudo = Vec::with_capacity(32);
        self.addresses(&mut pseudo);
        let start = to.len();
        to.extend(self.from.port().to_be_bytes());
        to.extend(self.to.port().to_be_bytes());
        to.extend(self.number.to_be_bytes());
        to.extend(self.acknowledged.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4).expect("at most 40 bytes of options");
        to.extend([words << 4, self.flags]);
        to.extend(self.window.to_be_bytes());
        // no checksum yet, nothing urgent
        to.extend([0; 4]);
        to.extend(self.options);
        to.extend(self.payload);
        let length = to.len() - start;
        let length = u32::try_from(length).expect("a small segment");
        let sum = sum(&pseudo) + u32::from(TCP) + length + sum(&to[start..]);
        let mut sum = checksum(sum);
        if self.checksum == Checksum::Wrong {
            sum[0] ^= 0x55;
        }
        to[start + 16..start + 18].copy_from_slice(&sum);
    }

    fn addresses(&self, to: &mut Vec<u8>) {
        for ip in [self.from.ip(), self.to.ip()] {
            match ip {
                IpAddr::V4(ip) => to.extend(ip.octets()),
                IpAddr::V6(ip) => to.extend(ip.octets()),
            }
        }
    }
}

/// Of RFC 1071, not folded yet: enough for 64 KB.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum()
}

pub fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let folded = u16::try_from(folded).expect("folded into 16 bits");
    (!folded).to_be_bytes()
}
