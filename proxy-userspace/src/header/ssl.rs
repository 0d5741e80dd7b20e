//! What a balancer says of the client's TLS connection: a TLV with TLVs in it.

use std::fmt;

use bitflags::bitflags;
use serde::{Serialize, Serializer};

use super::PeerBytes;
use super::cursor::Cursor;
use super::tlv::{Raw, Raws};

bitflags! {
    /// How the client took part in TLS.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SslClient: u8 {
        const SSL = 0x01;
        /// It showed a certificate on this connection.
        const CERT_CONN = 0x02;
        /// It showed one earlier in this TLS session.
        const CERT_SESS = 0x04;
        // Bits assigned later are carried, not refused.
        const _ = !0;
    }
}

impl Serialize for SslClient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter_names().map(|(name, _)| name))
    }
}

/// What the balancer says of the client's TLS connection to it (V2-26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ssl<'a> {
    pub client: SslClient,
    /// 0: the certificate was verified.
    pub verify: u32,
    pub subs: SslSubs<'a>,
}

impl<'a> Ssl<'a> {
    /// `client` and `verify`.
    pub(super) const FIXED_LEN: usize = 5;

    /// `None`: shorter than its fixed part, or a sub-TLV doesn't end within it.
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(value);
        Some(Self {
            client: SslClient::from_bits_retain(cursor.u8()?),
            verify: cursor.u32()?,
            subs: SslSubs::parse(cursor.rest())?,
        })
    }

    /// The name in the client's certificate, if there is one and the balancer has verified it.
    #[must_use]
    pub fn verified_common_name(&self) -> Option<PeerBytes<'a>> {
        let certificate = SslClient::CERT_CONN | SslClient::CERT_SESS;
        if self.verify != 0 || !self.client.intersects(certificate) {
            return None;
        }
        self.subs.iter().find_map(|sub| match sub {
            SslSub::CommonName(name) => Some(name),
            _ => None,
        })
    }
}

/// One sub-TLV of an SSL TLV, types 0x21 to 0x28.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "value", rename_all = "snake_case")]
pub enum SslSub<'a> {
    Version(PeerBytes<'a>),
    CommonName(PeerBytes<'a>),
    Cipher(PeerBytes<'a>),
    SigAlg(PeerBytes<'a>),
    KeyAlg(PeerBytes<'a>),
    Group(PeerBytes<'a>),
    SigScheme(PeerBytes<'a>),
    /// DER.
    ClientCert(PeerBytes<'a>),
    Unknown {
        kind: u8,
        value: PeerBytes<'a>,
    },
}

impl SslSub<'_> {
    pub(super) const CLIENT_CERT: u8 = 0x28;
}

impl<'a> From<Raw<'a>> for SslSub<'a> {
    fn from(raw: Raw<'a>) -> Self {
        let value = PeerBytes::new(raw.value);
        match raw.kind {
            0x21 => Self::Version(value),
            0x22 => Self::CommonName(value),
            0x23 => Self::Cipher(value),
            0x24 => Self::SigAlg(value),
            0x25 => Self::KeyAlg(value),
            0x26 => Self::Group(value),
            0x27 => Self::SigScheme(value),
            Self::CLIENT_CERT => Self::ClientCert(value),
            kind => Self::Unknown { kind, value },
        }
    }
}

/// The sub-TLVs of one SSL TLV. One level only: an SSL type in here is unknown (SEC-8).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct SslSubs<'a>(&'a [u8]);

impl<'a> SslSubs<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut subs = Raws::new(bytes, 0);
        (&mut subs).for_each(drop);
        subs.finish().ok().map(|()| Self(bytes))
    }

    /// In the order sent.
    pub fn iter(&self) -> impl Iterator<Item = SslSub<'a>> + use<'a> {
        Raws::new(self.0, 0).map(SslSub::from)
    }
}

impl fmt::Debug for SslSubs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for SslSubs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}
