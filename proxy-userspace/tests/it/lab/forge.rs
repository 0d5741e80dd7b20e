//! TCP segments that nobody's kernel has sent.

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Netns;

/// `IPPROTO_RAW`: the packet brings its own IP header, in either family.
const WHOLE_PACKETS: i32 = 255;
const TCP: u8 = 6;

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub number: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// From `netns`, whoever's address it says it is from.
    pub fn send(&self, netns: &Netns) -> Result<()> {
        let raw = Some(Protocol::from(WHOLE_PACKETS));
        let domain = Domain::for_address(self.to);
        let to = SocketAddr::new(self.to.ip(), 0);
        let packet = [self.ip(), self.tcp()].concat();
        netns
            .enter(|| -> io::Result<usize> {
                Socket::new(domain, Type::RAW, raw)?.send_to(&packet, &to.into())
            })
            .with_context(|| format!("sending {self:?}"))?;
        Ok(())
    }

    /// The kernel adds IPv4's checksum.
    fn ip(&self) -> Vec<u8> {
        let length = 20 + self.payload.len();
        let length = u16::try_from(length).expect("a small packet");
        let mut header = if self.to.is_ipv4() {
            let [high, low] = (20 + length).to_be_bytes();
            vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP, 0, 0]
        } else {
            let [high, low] = length.to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, TCP, 64]
        };
        header.extend(self.addresses());
        header
    }

    fn tcp(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.number.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        // 5 words of header, no options; a window of 8 KiB; no checksum yet, nothing urgent
        segment.extend([0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
        segment.extend(self.payload);
        let sum = self.checksum(&segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    /// Of RFC 9293: addresses, protocol and length, and the segment.
    fn checksum(&self, segment: &[u8]) -> u16 {
        let length = u16::try_from(segment.len()).expect("a small segment");
        let [high, low] = length.to_be_bytes();
        let words = [self.addresses().as_slice(), &[0, TCP, high, low], segment].concat();
        let sum: u32 = words
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        !u16::try_from(folded).expect("folded into 16 bits")
    }

    fn addresses(&self) -> Vec<u8> {
        let octets = |ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        [octets(self.from.ip()), octets(self.to.ip())].concat()
    }
}
