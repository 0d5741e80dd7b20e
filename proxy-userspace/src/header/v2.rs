//! Version 2: binary, with extensions.

use std::net::{IpAddr, SocketAddr};

use super::cursor::Cursor;
use super::{Command, Endpoints, Header, Parse, Refusal, Tlvs, Transport, Version};

/// Twelve bytes with a NUL among them (V2-1).
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length (V2-2).
pub(super) const FIXED_LEN: usize = 16;

pub(super) const VERSION: u8 = 2;

/// What the address block is, for the command and the family byte together.
#[derive(Clone, Copy)]
enum Block {
    /// LOCAL: skipped unread (V2-6).
    Local,
    Unspec,
    Inet,
    Inet6,
    Unix,
}

impl Block {
    /// Bytes of addresses (V2-9).
    fn len(self) -> usize {
        match self {
            Self::Local | Self::Unspec => 0,
            Self::Inet => 12,
            Self::Inet6 => 36,
            Self::Unix => 216,
        }
    }
}

/// Reads a header whose signature the caller has seen.
pub(super) fn parse(buf: &[u8], max_len: usize, carrier: Transport) -> Result<Parse<'_>, Refusal> {
    let mut cursor = Cursor::new(buf);
    cursor.take(SIGNATURE.len());
    let Some(byte) = cursor.u8() else {
        return Ok(Parse::Partial);
    };
    let command = command(byte)?;
    let Some(family) = cursor.u8() else {
        return Ok(Parse::Partial);
    };
    let block = block(command, family, carrier)?;
    let Some(len) = cursor.u16() else {
        return Ok(Parse::Partial);
    };
    let len = header_len(len.into(), block, max_len)?;
    // Nothing of the block is read before all of it is in (V2-29).
    let Some((bytes, _)) = buf.split_at_checked(len) else {
        return Ok(Parse::Partial);
    };
    let header = header(bytes, command, block)?;
    Ok(Parse::Complete { header, len })
}

fn command(byte: u8) -> Result<Command, Refusal> {
    match (byte >> 4, byte & 0x0f) {
        (VERSION, 0) => Ok(Command::Local),
        (VERSION, 1) => Ok(Command::Proxy),
        (VERSION, command) => Err(Refusal::BadCommand { command }),
        (version, _) => Err(Refusal::BadVersion { version }),
    }
}

fn block(command: Command, family: u8, carrier: Transport) -> Result<Block, Refusal> {
    if command == Command::Local {
        return Ok(Block::Local);
    }
    let (block, transport) = match (family >> 4, family & 0x0f) {
        (4.., _) | (_, 3..) => return Err(Refusal::BadFamily { family }),
        (0, _) | (_, 0) => return Ok(Block::Unspec),
        (1, protocol) => (Block::Inet, protocol),
        (2, protocol) => (Block::Inet6, protocol),
        (3, protocol) => (Block::Unix, protocol),
    };
    match (transport, carrier) {
        (1, Transport::Stream) | (2, Transport::Datagram) => Ok(block),
        _ => Err(Refusal::TransportMismatch { family, carrier }),
    }
}

/// The length of the whole header, from its length field.
fn header_len(len: usize, block: Block, max_len: usize) -> Result<usize, Refusal> {
    let needed = block.len();
    let total = FIXED_LEN + len;
    if len < needed {
        Err(Refusal::AddressBlockShort { len, needed })
    } else if total > max_len {
        Err(Refusal::HeaderTooLong {
            len: total,
            max: max_len,
        })
    } else {
        Ok(total)
    }
}

fn header(bytes: &[u8], command: Command, block: Block) -> Result<Header<'_>, Refusal> {
    let tlvs_at = FIXED_LEN + block.len();
    let tlvs = match block {
        Block::Local => Tlvs::default(),
        // A sender may leave addresses here whose size nobody knows. What doesn't read as TLVs is
        // taken for that and skipped (V2-8).
        Block::Unspec => Tlvs::parse_if_well_formed(bytes, tlvs_at)?,
        Block::Inet | Block::Inet6 | Block::Unix => Tlvs::parse(bytes, tlvs_at)?,
    };
    Ok(Header {
        version: Version::V2,
        command,
        endpoints: endpoints(bytes, block),
        tlvs,
    })
}

fn endpoints(header: &[u8], block: Block) -> Option<Endpoints> {
    let mut cursor = Cursor::new(header);
    cursor.take(FIXED_LEN)?;
    match block {
        Block::Local | Block::Unspec | Block::Unix => None,
        Block::Inet => addresses::<4>(&mut cursor),
        Block::Inet6 => addresses::<16>(&mut cursor),
    }
}

/// Both addresses, then both ports, in network order (V2-9).
pub(super) fn addresses<const N: usize>(cursor: &mut Cursor<'_>) -> Option<Endpoints>
where
    [u8; N]: Into<IpAddr>,
{
    let (source, destination) = (cursor.array::<N>()?, cursor.array::<N>()?);
    Some(Endpoints {
        source: SocketAddr::new(source.into(), cursor.u16()?),
        destination: SocketAddr::new(destination.into(), cursor.u16()?),
    })
}
