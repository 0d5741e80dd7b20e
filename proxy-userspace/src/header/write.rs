//! Headers as a sender owes them: for the tests, and for sending them on.

use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

use super::ssl::SslClient;
use super::{Command, Endpoints, crc, kind, v2};

/// The v1 line for a client; without one, the short form of UNKNOWN (S-3).
#[must_use]
pub fn v1(endpoints: Option<&Endpoints>) -> String {
    let Some(endpoints) = endpoints else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let (source, destination) = endpoints.one_family();
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {protocol} {} {} {} {}\r\n",
        text(source),
        text(destination),
        endpoints.source.port(),
        endpoints.destination.port()
    )
}

/// Without the dotted tail that IPv4-mapped addresses are displayed with: the written grammar of
/// v1 doesn't have it (V1-8).
fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => hex(v6),
        _ => ip.to_string(),
    }
}

fn hex(mapped: Ipv6Addr) -> String {
    let [.., high, low] = mapped.segments();
    format!("::ffff:{high:x}:{low:x}")
}

/// A header longer than its length field can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a v2 header can't have {len} bytes after its first 16; 65535 is the most")]
pub struct TooLong {
    pub len: usize,
}

/// Puts a v2 header together.
#[derive(Clone, Debug)]
pub struct V2Builder {
    command: Command,
    family: u8,
    /// Addresses and TLVs, what the length field counts.
    body: Vec<u8>,
    crc: bool,
}

impl V2Builder {
    const STREAM: u8 = 0x01;
    const DATAGRAM: u8 = 0x02;

    /// For the balancer's own connections, such as health checks (S-5).
    #[must_use]
    pub fn local() -> Self {
        Self::new(Command::Local, 0)
    }

    /// For a client whose address is neither IPv4 nor IPv6.
    #[must_use]
    pub fn unspec() -> Self {
        Self::new(Command::Proxy, 0)
    }

    /// For a client's TCP connection.
    #[must_use]
    pub fn stream(endpoints: &Endpoints) -> Self {
        Self::proxy(endpoints, Self::STREAM)
    }

    /// For a client's UDP datagram.
    #[must_use]
    pub fn datagram(endpoints: &Endpoints) -> Self {
        Self::proxy(endpoints, Self::DATAGRAM)
    }

    /// Adds a TLV of any type; types are in [`kind`].
    #[must_use]
    pub fn tlv(mut self, kind: u8, value: &[u8]) -> Self {
        push_tlv(&mut self.body, kind, value);
        self
    }

    /// Adds an SSL TLV with its sub-TLVs.
    #[must_use]
    pub fn ssl(self, client: SslClient, verify: u32, subs: &[(u8, &[u8])]) -> Self {
        let mut value = vec![client.bits()];
        value.extend(verify.to_be_bytes());
        for (kind, sub) in subs {
            push_tlv(&mut value, *kind, sub);
        }
        self.tlv(kind::SSL, &value)
    }

    /// Adds a CRC32C, last, over everything else (S-4).
    #[must_use]
    pub fn crc32c(mut self) -> Self {
        self.crc = true;
        self
    }

    pub fn build(mut self) -> Result<Vec<u8>, TooLong> {
        if self.crc {
            push_tlv(&mut self.body, kind::CRC32C, &[0; crc::LEN]);
        }
        let len = self.body.len();
        let len = u16::try_from(len).map_err(|_| TooLong { len })?;
        let mut header = v2::SIGNATURE.to_vec();
        header.push(v2::VERSION << 4 | u8::from(self.command == Command::Proxy));
        header.push(self.family);
        header.extend(len.to_be_bytes());
        header.append(&mut self.body);
        if self.crc {
            fill_in_crc(&mut header);
        }
        Ok(header)
    }

    fn new(command: Command, family: u8) -> Self {
        Self {
            command,
            family,
            body: Vec::new(),
            crc: false,
        }
    }

    fn proxy(endpoints: &Endpoints, protocol: u8) -> Self {
        let (source, destination) = endpoints.one_family();
        let family = if source.is_ipv4() { 0x10 } else { 0x20 };
        let mut header = Self::new(Command::Proxy, family | protocol);
        for ip in [source, destination] {
            match ip {
                IpAddr::V4(ip) => header.body.extend(ip.octets()),
                IpAddr::V6(ip) => header.body.extend(ip.octets()),
            }
        }
        for end in [endpoints.source, endpoints.destination] {
            header.body.extend(end.port().to_be_bytes());
        }
        header
    }
}

/// A value beyond 16 bits of length makes the whole too long, so `build` refuses it anyway.
pub(super) fn push_tlv(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    to.push(kind);
    to.extend(len.to_be_bytes());
    to.extend(value);
}

/// The last TLV of the header is the CRC32C, still zero.
fn fill_in_crc(header: &mut [u8]) {
    let sum = crc32c::crc32c(header);
    if let Some(field) = header.last_chunk_mut() {
        *field = sum.to_be_bytes();
    }
}
