//! Why headers are refused, in words for whoever set up the balancer.

use std::fmt;

use thiserror::Error;

use super::{Version, spp, v1};

/// Why a header was refused: one variant per cause.
///
/// Every fault is the balancer's or its configuration's, and the text says what it should send
/// instead. There are numbers in it and no bytes of the header, so it can be logged (SEC-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error(
        "byte {at} fits neither a v1 nor a v2 signature: the balancer must put a PROXY protocol \
         header before everything else"
    )]
    BadSignature { at: usize },
    #[error(
        "the header is {version}, which this service doesn't take: let the balancer send the \
         other version, or allow this one here"
    )]
    VersionNotAllowed { version: Version },

    #[error(
        "v1: wrong protocol at byte {at}: the balancer must send TCP4, TCP6 or UNKNOWN with one \
         space around it"
    )]
    V1BadProtocol { at: usize },
    #[error(
        "v1: no CRLF within {} bytes: the balancer must end the line by then",
        v1::MAX_LEN
    )]
    V1NoCrlf,
    #[error("v1: lone CR or LF at byte {at}: the balancer must end the line with CRLF")]
    V1LoneLineEnd { at: usize },
    #[error(
        "v1: wrong number of fields at byte {at}: the balancer must send two addresses and two \
         ports with single spaces between them"
    )]
    V1FieldCount { at: usize },
    #[error(
        "v1: {side} address isn't one of the announced family: the balancer must send dotted \
         decimals without leading zeroes for TCP4, colon-separated hex without a zone for TCP6"
    )]
    V1BadAddress { side: Side },
    #[error("v1: {side} port isn't a decimal number: the balancer must send digits only")]
    PortNotDecimal { side: Side },
    #[error("v1: {side} port has a leading zero: the balancer must send it without padding")]
    PortLeadingZero { side: Side },
    #[error("v1: {side} port is above 65535: the balancer must send one from 0 to 65535")]
    PortOutOfRange { side: Side },

    #[error("v2: version {version} at byte 12: the balancer must send 2 in the high nibble")]
    BadVersion { version: u8 },
    #[error("v2: command {command} at byte 12: the balancer must send 0 (LOCAL) or 1 (PROXY)")]
    BadCommand { command: u8 },
    #[error(
        "v2: family {family:#04x} at byte 13: the balancer must send one of 0x00, 0x11, 0x12, \
         0x21, 0x22, 0x31, 0x32"
    )]
    BadFamily { family: u8 },
    #[error(
        "v2: family {family:#04x} at byte 13 doesn't describe a {carrier}: the balancer must send \
         STREAM for TCP and DGRAM for UDP"
    )]
    TransportMismatch { family: u8, carrier: Transport },
    #[error(
        "v2: length {len} at byte 14 is too short for the {needed} bytes of addresses of its \
         family: the balancer must count them"
    )]
    AddressBlockShort { len: usize, needed: usize },
    #[error(
        "v2: header of {len} bytes, {max} are allowed: let the balancer send fewer TLVs, or raise \
         the limit here"
    )]
    HeaderTooLong { len: usize, max: usize },
    #[error(
        "v2: the TLV at byte {at} is cut off or has the wrong size for its type: the balancer \
         must end its TLVs where the header ends"
    )]
    TlvMalformed { at: usize },
    #[error("v2: the CRC32C has {len} bytes: the balancer must send 4")]
    CrcBadLength { len: usize },
    #[error("v2: more than one CRC32C: the balancer must send one, over the whole header")]
    CrcRepeated,
    #[error(
        "v2: wrong CRC32C: the balancer must compute it over the {len} bytes of the header with \
         the field zeroed, and send it in network order"
    )]
    CrcMismatch { len: usize },

    #[error(
        "the datagram ends within the header, after {len} bytes: the balancer must send header \
         and payload in one datagram"
    )]
    DatagramIncomplete { len: usize },
    #[error(
        "v1 line at the start of a datagram, but v1 has no word for UDP: the balancer must send v2"
    )]
    V1InDatagram,
    #[error(
        "spp: only {len} bytes: the balancer must send {} before the payload of each datagram",
        spp::LEN
    )]
    SppShort { len: usize },
    #[error("spp: wrong magic at byte 0: the balancer must start each datagram with 0x56ec")]
    SppBadMagic,
}

/// One list for names and match, so that a variant can't be left out of either.
macro_rules! names {
    ($($variant:ident => $name:literal,)*) => {
        impl Refusal {
            /// The name of every cause, for a counter each.
            pub const ALL: &[&str] = &[$($name),*];

            /// A name for metrics and logs that never changes.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }
        }
    };
}

names! {
    BadSignature => "bad_signature",
    VersionNotAllowed => "version_not_allowed",
    V1BadProtocol => "v1_bad_protocol",
    V1NoCrlf => "v1_no_crlf",
    V1LoneLineEnd => "v1_lone_line_end",
    V1FieldCount => "v1_field_count",
    V1BadAddress => "v1_bad_address",
    PortNotDecimal => "port_not_decimal",
    PortLeadingZero => "port_leading_zero",
    PortOutOfRange => "port_out_of_range",
    BadVersion => "bad_version",
    BadCommand => "bad_command",
    BadFamily => "bad_family",
    TransportMismatch => "transport_mismatch",
    AddressBlockShort => "address_block_short",
    HeaderTooLong => "header_too_long",
    TlvMalformed => "tlv_malformed",
    CrcBadLength => "crc_bad_length",
    CrcRepeated => "crc_repeated",
    CrcMismatch => "crc_mismatch",
    DatagramIncomplete => "datagram_incomplete",
    V1InDatagram => "v1_in_datagram",
    SppShort => "spp_short",
    SppBadMagic => "spp_bad_magic",
}

/// Which end of the client's connection a field describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// What carried the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Stream,
    Datagram,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Datagram => "datagram",
        })
    }
}
