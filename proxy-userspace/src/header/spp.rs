//! Cloudflare's Simple Proxy Protocol: 38 fixed bytes before the payload of each UDP datagram,
//! in both directions (SPP-4, SPP-5).

use super::cursor::Cursor;
use super::endpoints::mapped;
use super::{Command, Endpoints, Header, Refusal, Tlvs, Version, v2};

/// Magic, two addresses of 16 bytes, two ports (SPP-1).
pub const LEN: usize = 38;

const MAGIC: [u8; 2] = [0x56, 0xec];

/// Reads the header of one datagram; the payload begins at [`LEN`].
///
/// IPv4-mapped addresses become IPv4, as that is how the format spells them (SPP-2). [`write()`]
/// maps them back, so a reply gets the bytes that came in.
pub fn parse(buf: &[u8]) -> Result<(Header<'_>, usize), Refusal> {
    let mut cursor = Cursor::new(buf);
    if cursor.array().is_some_and(|magic| magic != MAGIC) {
        return Err(Refusal::SppBadMagic);
    }
    let Some(stated) = v2::addresses::<16>(&mut cursor) else {
        return Err(Refusal::SppShort { len: buf.len() });
    };
    let header = Header {
        version: Version::Spp,
        command: Command::Proxy,
        endpoints: Some(stated.canonical()),
        tlvs: Tlvs::default(),
    };
    Ok((header, LEN))
}

/// The header for one datagram of the flow, whichever way it goes.
#[must_use]
pub fn write(endpoints: &Endpoints) -> [u8; LEN] {
    let fields = [
        &MAGIC[..],
        &mapped(endpoints.source.ip()).octets(),
        &mapped(endpoints.destination.ip()).octets(),
        &endpoints.source.port().to_be_bytes(),
        &endpoints.destination.port().to_be_bytes(),
    ];
    let mut header = [0; LEN];
    for (to, from) in header.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    header
}
