//! The fixed part of version 2: the signature, version and command, family, and length.

use crate::{Addr, Endpoint};

pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
pub const FIXED_LEN: usize = 16;
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// Families, without what carries them.
const INET: u8 = 0x10;
const INET6: u8 = 0x20;

/// What a header is in front of.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Stream = 1,
    Datagram = 2,
}

/// Of type, two bytes of length, and value.
pub const TLV_HEAD_LEN: usize = 3;
pub const TLV_CRC32C: u8 = 0x03;
pub const CRC32C_LEN: u16 = 4;
pub const TLV_UNIQUE_ID: u8 = 0x05;
pub const UNIQUE_ID_MAX: u16 = 128;
pub const TLV_SSL: u8 = 0x20;
/// What an SSL TLV has before the TLVs in it: `client` and `verify`.
pub const SSL_FIXED_LEN: u16 = 5;

/// What the fixed part says, and the words behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// Of the whole header.
    pub len: usize,
    /// Where the TLVs begin.
    pub tlvs: usize,
}

/// None unless it is a PROXY command over this transport with room for its addresses.
#[inline(always)]
#[must_use]
pub fn fixed(bytes: &[u8; FIXED_LEN], transport: Transport) -> Option<Fixed> {
    let [signature @ .., command, family, high, low] = *bytes;
    if signature != SIGNATURE || command != PROXY {
        return None;
    }
    let (v6, tlvs) = match family ^ transport as u8 {
        INET => (false, FIXED_LEN + 12),
        INET6 => (true, FIXED_LEN + 36),
        _ => return None,
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    (len >= tlvs).then_some(Fixed { v6, len, tlvs })
}

/// The source of an IPv4 block: source, destination, both ports.
#[inline(always)]
#[must_use]
pub const fn source4([source, _, ports]: [u32; 3]) -> Endpoint {
    Endpoint::new(Addr::from_v4(source), port(ports))
}

/// The source of an IPv6 block.
#[inline(always)]
#[must_use]
pub const fn source6([a, b, c, d, _, _, _, _, ports]: [u32; 9]) -> Endpoint {
    Endpoint::new(Addr::from_v6([a, b, c, d]), port(ports))
}

const fn port(ports: u32) -> u16 {
    let [high, low, _, _] = ports.to_ne_bytes();
    u16::from_be_bytes([high, low])
}
