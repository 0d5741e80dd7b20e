//! PROXY protocol v1 and v2 and Cloudflare's SPP: bytes in, header out.
//!
//! Nothing here does I/O, reads a clock, copies payload or allocates by a length that a peer
//! states. The rule ids in the comments (`V1-15`) are those of `docs/PROXY-PROTOCOL.md`.
//!
//! [`parse`] is stateless: hand it everything received so far, again after each read. It refuses
//! at the first byte that no valid header can have there, so any split of the same bytes gives
//! the same answer.

mod crc;
mod cursor;
mod endpoints;
mod kept;
mod peer_bytes;
mod refusal;
pub mod spp;
mod ssl;
mod tlv;
mod v1;
mod v2;
pub mod write;

use std::fmt;

use serde::Serialize;

pub use endpoints::Endpoints;
pub use kept::KeptTlvs;
pub use peer_bytes::PeerBytes;
pub use refusal::{Refusal, Side, Transport};
pub use ssl::{Ssl, SslClient, SslSub, SslSubs};
pub use tlv::{Tlv, Tlvs, kind};
pub use v1::MAX_LEN as V1_MAX_LEN;
pub use write::V2Builder;

/// What a service expects of its balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub versions: Versions,
    /// Longest v2 header taken, the 16 fixed bytes included. v1 has its own limit (V1-15).
    pub max_len: usize,
}

impl Policy {
    /// Three times the longest header seen in the field, a client certificate in 1.3 KB (V2-13).
    pub const DEFAULT_MAX_LEN: usize = 4096;
    /// What every receiver has to take, as every sender may count on it (V2-13).
    pub const SMALLEST_MAX_LEN: usize = 536;
    /// The most that a v2 length field can state.
    pub const LARGEST_MAX_LEN: usize = v2::FIXED_LEN + u16::MAX as usize;
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            versions: Versions::Any,
            max_len: Self::DEFAULT_MAX_LEN,
        }
    }
}

/// The versions that a service takes (G-8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    #[default]
    Any,
    V1,
    V2,
}

impl Versions {
    fn allow(self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::V1 => version == Version::V1,
            Self::V2 => version == Version::V2,
        }
    }
}

/// The format a header came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    V1,
    V2,
    Spp,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Spp => "spp",
        })
    }
}

/// On whose behalf the balancer connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Its own: a health check.
    Local,
    /// A client's.
    Proxy,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Proxy => "proxy",
        })
    }
}

/// One valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Header<'a> {
    pub version: Version,
    pub command: Command,
    /// `None` means: use the balancer's real address. So it is for LOCAL, UNKNOWN, UNSPEC and
    /// AF_UNIX, whatever addresses the header may carry besides (V1-5, V2-6, V2-8).
    pub endpoints: Option<Endpoints>,
    /// Empty for v1, SPP and LOCAL.
    pub tlvs: Tlvs<'a>,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse<'a> {
    /// Right so far; call again with more bytes. A buffer of `max_len` bytes, and no less than
    /// [`V1_MAX_LEN`], is never full by then.
    Partial,
    /// The first `len` bytes are the header, everything after them is payload.
    Complete { header: Header<'a>, len: usize },
}

/// Reads the header at the start of a stream.
pub fn parse<'a>(buf: &'a [u8], policy: &Policy) -> Result<Parse<'a>, Refusal> {
    match detect(buf, policy)? {
        None => Ok(Parse::Partial),
        Some(Signature::V1) => v1::parse(buf),
        Some(Signature::V2) => v2::parse(buf, policy.max_len, Transport::Stream),
    }
}

/// Reads the header at the start of a datagram, which has to be all there (U-1).
///
/// A v1 line is refused: it has no word for UDP (U-4).
pub fn parse_datagram<'a>(buf: &'a [u8], policy: &Policy) -> Result<(Header<'a>, usize), Refusal> {
    let parsed = match detect(buf, policy)? {
        None => Parse::Partial,
        Some(Signature::V1) => return Err(Refusal::V1InDatagram),
        Some(Signature::V2) => v2::parse(buf, policy.max_len, Transport::Datagram)?,
    };
    match parsed {
        Parse::Partial => Err(Refusal::DatagramIncomplete { len: buf.len() }),
        Parse::Complete { header, len } => Ok((header, len)),
    }
}

enum Signature {
    V1,
    V2,
}

/// Tells the versions apart (G-6). A version that isn't allowed is named as such, so its whole
/// signature is waited for: `P` alone may just as well be an HTTP POST.
fn detect(buf: &[u8], policy: &Policy) -> Result<Option<Signature>, Refusal> {
    let v1 = cursor::common_prefix(buf, v1::SIGNATURE);
    let v2 = cursor::common_prefix(buf, v2::SIGNATURE);
    let (signature, version) = if v1 == v1::SIGNATURE.len() {
        (Signature::V1, Version::V1)
    } else if v2 == v2::SIGNATURE.len() {
        (Signature::V2, Version::V2)
    } else if v1.max(v2) == buf.len() {
        return Ok(None);
    } else {
        return Err(Refusal::BadSignature { at: v1.max(v2) });
    };
    if policy.versions.allow(version) {
        Ok(Some(signature))
    } else {
        Err(Refusal::VersionNotAllowed { version })
    }
}
