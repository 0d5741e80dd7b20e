//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::cursor::common_prefix;
use super::{Command, Endpoints, Header, Parse, Refusal, Side, Tlvs, Version};

/// Six bytes, so that `PROXYTCP4` fails here (V1-2).
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest line, an UNKNOWN with two full IPv6 addresses, CRLF included (V1-14, V1-15).
pub const MAX_LEN: usize = 107;

const CRLF_LEN: usize = 2;

#[derive(Clone, Copy)]
enum Protocol {
    Tcp4,
    Tcp6,
    Unknown,
}

/// A word counts only with its delimiter (V1-4). The number is where its fields begin; UNKNOWN
/// has none, so the end of its line is looked for from the delimiter on.
const PROTOCOLS: [(&[u8], usize, Protocol); 4] = [
    (b"TCP4 ", 5, Protocol::Tcp4),
    (b"TCP6 ", 5, Protocol::Tcp6),
    (b"UNKNOWN ", 7, Protocol::Unknown),
    (b"UNKNOWN\r", 7, Protocol::Unknown),
];

/// Reads a line whose signature the caller has seen.
pub(super) fn parse(buf: &[u8]) -> Result<Parse<'_>, Refusal> {
    let Some((protocol, start)) = protocol(buf)? else {
        return Ok(Parse::Partial);
    };
    let Some(end) = line_end(buf, start, protocol)? else {
        return Ok(Parse::Partial);
    };
    // Values wait until here: a number cut short is a number too (V1-13).
    let fields = buf.get(start..end).unwrap_or_default();
    let endpoints = match protocol {
        Protocol::Tcp4 => Some(endpoints::<Ipv4Addr>(fields, end)?),
        Protocol::Tcp6 => Some(endpoints::<Ipv6Addr>(fields, end)?),
        Protocol::Unknown => None,
    };
    let header = Header {
        version: Version::V1,
        command: Command::Proxy,
        endpoints,
        tlvs: Tlvs::default(),
    };
    let len = end + CRLF_LEN;
    Ok(Parse::Complete { header, len })
}

/// The protocol, and where its fields begin.
fn protocol(buf: &[u8]) -> Result<Option<(Protocol, usize)>, Refusal> {
    let at = SIGNATURE.len();
    let rest = buf.get(at..).unwrap_or_default();
    let mut matched = 0;
    for (word, fields, protocol) in PROTOCOLS {
        let common = common_prefix(rest, word);
        if common == word.len() {
            return Ok(Some((protocol, at + fields)));
        }
        matched = matched.max(common);
    }
    if matched == rest.len() {
        Ok(None)
    } else {
        Err(Refusal::V1BadProtocol { at: at + matched })
    }
}

/// Where the CR of the CRLF is. Bytes that can't occur are refused on the way, because a peer
/// that sends something else may never send a CRLF.
fn line_end(buf: &[u8], start: usize, protocol: Protocol) -> Result<Option<usize>, Refusal> {
    const LAST_CR: usize = MAX_LEN - CRLF_LEN;
    let mut fields = Fields::new(protocol);
    for (at, &byte) in buf.iter().enumerate().take(LAST_CR + 1).skip(start) {
        match (byte, buf.get(at + 1)) {
            (b'\r', None) => return Ok(None),
            (b'\r', Some(b'\n')) => return Ok(Some(at)),
            (b'\r' | b'\n', _) => return Err(Refusal::V1LoneLineEnd { at }),
            _ => fields.check(byte, at)?,
        }
    }
    if buf.len() > LAST_CR {
        Err(Refusal::V1NoCrlf)
    } else {
        Ok(None)
    }
}

/// Which of the four fields the scan is in.
struct Fields {
    protocol: Protocol,
    index: usize,
    empty: bool,
}

impl Fields {
    const LAST: usize = 3;

    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            index: 0,
            empty: true,
        }
    }

    fn check(&mut self, byte: u8, at: usize) -> Result<(), Refusal> {
        match (self.protocol, byte) {
            // Whatever follows UNKNOWN is ignored (V1-5).
            (Protocol::Unknown, _) => return Ok(()),
            (_, b' ') if self.empty || self.index == Self::LAST => {
                return Err(Refusal::V1FieldCount { at });
            }
            (_, b' ') => self.index += 1,
            _ => self.check_in_field(byte)?,
        }
        self.empty = byte == b' ';
        Ok(())
    }

    fn check_in_field(&self, byte: u8) -> Result<(), Refusal> {
        let side = match self.index % 2 {
            0 => Side::Source,
            _ => Side::Destination,
        };
        let (allowed, refusal) = match (self.index, self.protocol) {
            (0 | 1, Protocol::Tcp4) => (
                matches!(byte, b'0'..=b'9' | b'.'),
                Refusal::V1BadAddress { side },
            ),
            (0 | 1, _) => (
                byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'),
                Refusal::V1BadAddress { side },
            ),
            _ => (byte.is_ascii_digit(), Refusal::PortNotDecimal { side }),
        };
        if allowed { Ok(()) } else { Err(refusal) }
    }
}

fn endpoints<A>(fields: &[u8], end: usize) -> Result<Endpoints, Refusal>
where
    A: FromStr + Into<IpAddr>,
{
    // The scan let nothing but ASCII through.
    let text = str::from_utf8(fields).unwrap_or_default();
    let mut fields = text.split(' ');
    let mut next = || fields.next().ok_or(Refusal::V1FieldCount { at: end });
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (next()?, next()?);
    Ok(Endpoints {
        source: socket::<A>(source, source_port, Side::Source)?,
        destination: socket::<A>(destination, destination_port, Side::Destination)?,
    })
}

/// The standard library's address grammar is the one of V1-7 and V1-8: no leading zeroes in
/// IPv4, no zone or brackets in IPv6, dotted tails taken. The tests hold it to that.
fn socket<A>(address: &str, number: &str, side: Side) -> Result<SocketAddr, Refusal>
where
    A: FromStr + Into<IpAddr>,
{
    let ip = A::from_str(address).map_err(|_| Refusal::V1BadAddress { side })?;
    Ok(SocketAddr::new(ip.into(), port(number, side)?))
}

/// Not `u16::from_str`, which takes `+80` and `080` (V1-10, V1-11).
fn port(text: &str, side: Side) -> Result<u16, Refusal> {
    /// 65535 has five digits, so no accepted number wraps 32 bits.
    const MAX_DIGITS: usize = 5;
    match text.as_bytes() {
        [] => Err(Refusal::PortNotDecimal { side }),
        [b'0', _, ..] => Err(Refusal::PortLeadingZero { side }),
        digits if digits.len() > MAX_DIGITS => Err(Refusal::PortOutOfRange { side }),
        digits => u16::try_from(decimal(digits)).map_err(|_| Refusal::PortOutOfRange { side }),
    }
}

fn decimal(digits: &[u8]) -> u32 {
    digits
        .iter()
        .fold(0, |number, digit| number * 10 + u32::from(digit & 0x0f))
}
