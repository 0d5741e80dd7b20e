//! IP packets as they are on the wire, taken apart as far as tests ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;

/// A view of one packet; what follows the IP header may be cut off.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    /// Of IPv6 the next header, whatever that is.
    pub protocol: u8,
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// `None` for anything but IP. Padding of the link layer is left out.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let ip = packet.first_chunk::<20>()?;
                let end = usize::from(u16::from_be_bytes([ip[2], ip[3]])).min(packet.len());
                let address = |at: usize| ip[at..].first_chunk::<4>().copied().map(Ipv4Addr::from);
                Some(Self {
                    from: address(12)?.into(),
                    to: address(16)?.into(),
                    protocol: ip[9],
                    payload: packet.get(usize::from(ip[0] & 0x0f) * 4..end)?,
                })
            }
            6 => {
                let ip = packet.first_chunk::<40>()?;
                let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                let address = |at: usize| {
                    let octets = ip[at..].first_chunk::<16>().copied();
                    octets.map(Ipv6Addr::from)
                };
                let rest = &packet[40..];
                // 0 is a jumbogram, of which everything belongs to it
                let end = if length == 0 { rest.len() } else { length };
                Some(Self {
                    from: address(8)?.into(),
                    to: address(24)?.into(),
                    protocol: ip[6],
                    payload: &rest[..end.min(rest.len())],
                })
            }
            _ => None,
        }
    }

    /// Of TCP, as far as it is there.
    pub fn tcp_flags(&self) -> Option<u8> {
        (self.protocol == TCP).then_some(*self.payload.get(13)?)
    }
}
