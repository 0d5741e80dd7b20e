//! The extensions of a v2 header: what follows its addresses.

use std::fmt;

use serde::{Serialize, Serializer};

use super::cursor::Cursor;
use super::ssl::Ssl;
use super::{PeerBytes, Refusal, crc};

/// Type bytes (V2-16, V2-25).
pub mod kind {
    pub const ALPN: u8 = 0x01;
    pub const AUTHORITY: u8 = 0x02;
    pub const CRC32C: u8 = 0x03;
    pub const NOOP: u8 = 0x04;
    pub const UNIQUE_ID: u8 = 0x05;
    pub const SSL: u8 = 0x20;
    pub const NETNS: u8 = 0x30;
    pub const GCP: u8 = 0xe0;
    pub const AWS: u8 = 0xea;
    pub const AZURE: u8 = 0xee;
}

/// The longest UNIQUE_ID (V2-23).
const UNIQUE_ID_MAX: usize = 128;

/// One type-length-value of a v2 header.
///
/// An unassigned type, and a vendor's type whose value isn't laid out the way that vendor does
/// it, is [`Tlv::Unknown`]: others use the same numbers for other things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "value", rename_all = "snake_case")]
pub enum Tlv<'a> {
    Alpn(PeerBytes<'a>),
    Authority(PeerBytes<'a>),
    /// Verified by the parser.
    Crc32c(u32),
    Noop(PeerBytes<'a>),
    UniqueId(PeerBytes<'a>),
    Ssl(Ssl<'a>),
    Netns(PeerBytes<'a>),
    /// 0xEA, subtype 1.
    AwsVpcEndpoint(PeerBytes<'a>),
    /// 0xEE, subtype 1; the only little-endian number here.
    AzureLink(u32),
    /// 0xE0 of eight bytes.
    GcpPscConnection(u64),
    Unknown {
        kind: u8,
        value: PeerBytes<'a>,
    },
}

impl<'a> Tlv<'a> {
    fn view(raw: Raw<'a>) -> Result<Self, Refusal> {
        let malformed = Refusal::TlvMalformed { at: raw.at };
        let value = PeerBytes::new(raw.value);
        Ok(match raw.kind {
            kind::ALPN => Self::Alpn(value),
            kind::AUTHORITY => Self::Authority(value),
            kind::CRC32C => Self::Crc32c(crc_value(raw.value)?),
            kind::NOOP => Self::Noop(value),
            kind::UNIQUE_ID if raw.value.len() > UNIQUE_ID_MAX => return Err(malformed),
            kind::UNIQUE_ID => Self::UniqueId(value),
            kind::SSL => Self::Ssl(Ssl::parse(raw.value).ok_or(malformed)?),
            kind::NETNS => Self::Netns(value),
            kind => vendor(kind, raw.value).unwrap_or(Self::Unknown { kind, value }),
        })
    }
}

fn crc_value(value: &[u8]) -> Result<u32, Refusal> {
    let bytes = value
        .try_into()
        .map_err(|_| Refusal::CrcBadLength { len: value.len() })?;
    Ok(u32::from_be_bytes(bytes))
}

fn vendor(kind: u8, value: &[u8]) -> Option<Tlv<'_>> {
    match (kind, value) {
        (kind::AWS, [1, id @ ..]) => Some(Tlv::AwsVpcEndpoint(PeerBytes::new(id))),
        (kind::AZURE, [1, id @ ..]) => {
            let id = id.try_into().ok()?;
            Some(Tlv::AzureLink(u32::from_le_bytes(id)))
        }
        (kind::GCP, id) => {
            let id = id.try_into().ok()?;
            Some(Tlv::GcpPscConnection(u64::from_be_bytes(id)))
        }
        _ => None,
    }
}

/// The TLVs of one header, checked when it was parsed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// Checks every TLV of the header from `at` to its end, and the CRC32C if there is one.
    pub(super) fn parse(header: &'a [u8], at: usize) -> Result<Self, Refusal> {
        let mut tlvs = Raws::new(header, at);
        let mut crc = None;
        for raw in &mut tlvs {
            if let Tlv::Crc32c(stated) = Tlv::view(raw)?
                && crc.replace((raw.value_at(), stated)).is_some()
            {
                // Which of the two counts as zero for the other is nowhere said.
                return Err(Refusal::CrcRepeated);
            }
        }
        tlvs.finish()?;
        verify(header, crc)?;
        Ok(Self(header.get(at..).unwrap_or_default()))
    }

    /// The same, but what doesn't divide into TLVs at all is no error and gives none.
    pub(super) fn parse_if_well_formed(header: &'a [u8], at: usize) -> Result<Self, Refusal> {
        let mut tlvs = Raws::new(header, at);
        (&mut tlvs).for_each(drop);
        match tlvs.finish() {
            Ok(()) => Self::parse(header, at),
            Err(_) => Ok(Self::default()),
        }
    }

    /// What [`KeptTlvs`](super::KeptTlvs) took from here.
    pub(super) fn kept(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn raws(&self) -> Raws<'a> {
        Raws::new(self.0, 0)
    }

    /// In the order sent.
    pub fn iter(&self) -> impl Iterator<Item = Tlv<'a>> + use<'a> {
        // The parser has seen each of them pass.
        self.raws().filter_map(|raw| Tlv::view(raw).ok())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn verify(header: &[u8], crc: Option<(usize, u32)>) -> Result<(), Refusal> {
    match crc {
        Some((at, stated)) if crc::with_field_zeroed(header, at) != Some(stated) => {
            Err(Refusal::CrcMismatch { len: header.len() })
        }
        _ => Ok(()),
    }
}

impl fmt::Debug for Tlvs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Tlvs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// One TLV before its type is looked at.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) kind: u8,
    pub(super) value: &'a [u8],
    at: usize,
}

impl Raw<'_> {
    /// Type and length (V2-16).
    pub(super) const HEAD_LEN: usize = 3;

    fn value_at(&self) -> usize {
        self.at + Self::HEAD_LEN
    }
}

/// Splits a vector into TLVs; stops at its end or at the first that doesn't fit.
pub(super) struct Raws<'a> {
    cursor: Cursor<'a>,
    at: usize,
}

impl<'a> Raws<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        let mut cursor = Cursor::new(bytes);
        cursor.take(at);
        Self { cursor, at }
    }

    /// Whether the vector ended where its bytes did (V2-17).
    pub(super) fn finish(&self) -> Result<(), Refusal> {
        if self.cursor.rest().is_empty() {
            Ok(())
        } else {
            Err(Refusal::TlvMalformed { at: self.at })
        }
    }
}

impl<'a> Iterator for Raws<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let mut ahead = self.cursor;
        let kind = ahead.u8()?;
        let len = ahead.u16()?;
        let value = ahead.take(len.into())?;
        let at = self.at;
        self.cursor = ahead;
        self.at += Raw::HEAD_LEN + value.len();
        Some(Raw { kind, value, at })
    }
}
