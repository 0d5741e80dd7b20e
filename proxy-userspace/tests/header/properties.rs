//! What holds for any header, and for any bytes.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use truepeer::header::{
    Endpoints, Parse, Policy, Refusal, Tlv, V1_MAX_LEN, V2Builder, Versions, kind, parse,
    parse_datagram, spp, write,
};

use crate::{complete, datagram, is_partial, raw_v2};

/// Of each property; more where nobody waits.
fn cases() -> u32 {
    if std::env::var_os("TRUEPEER_FULL").is_some() {
        100_000
    } else {
        2000
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        any::<([u16; 8], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
    ]
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let ends = (address(), address());
    ends.prop_map(|(source, destination)| Endpoints {
        source,
        destination,
    })
}

/// TLVs that have no inner rules, so that any value is valid.
fn free_tlvs() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let kinds = prop::sample::select(vec![kind::ALPN, kind::AUTHORITY, kind::NOOP, kind::NETNS]);
    vec((kinds, vec(any::<u8>(), 0..40)), 0..6)
}

fn v2() -> impl Strategy<Value = Vec<u8>> {
    let parts = (endpoints(), free_tlvs(), any::<bool>(), 0..4);
    parts.prop_map(|(ends, tlvs, crc, which)| {
        let start = match which {
            0 => V2Builder::local(),
            1 => V2Builder::unspec(),
            _ => V2Builder::stream(&ends),
        };
        let all = tlvs
            .iter()
            .fold(start, |builder, (kind, value)| builder.tlv(*kind, value));
        let all = if crc { all.crc32c() } else { all };
        all.build().expect("a short header")
    })
}

/// Headers, lines that nearly are, and bytes.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let text = "(PROXY )?(TCP4|TCP6|UNKNOWN|TCP)?( [0-9a-f:.]{0,12}){0,5}( ?\r?\n?)";
    let fixed = (0x20..0x23u8, 0..0x40u8, vec(any::<u8>(), 0..60));
    prop_oneof![
        vec(any::<u8>(), 0..60),
        text.prop_map(String::into_bytes),
        endpoints().prop_map(|ends| write::v1(Some(&ends)).into_bytes()),
        v2(),
        fixed.prop_map(|(command, family, body)| raw_v2(command, family, &body)),
        endpoints().prop_map(|ends| spp::write(&ends).to_vec()),
    ]
}

/// A few bytes changed, some taken off the end, others put there.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..4);
    let parts = (anything(), changes, any::<Index>(), vec(any::<u8>(), 0..20));
    parts.prop_map(|(mut bytes, changes, keep, tail)| {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(keep.index(bytes.len() + 1).max(bytes.len() / 2));
        bytes.extend(tail);
        bytes
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let versions = prop::sample::select(vec![Versions::Any, Versions::V1, Versions::V2]);
    (versions, 0..200usize).prop_map(|(versions, max_len)| Policy { versions, max_len })
}

proptest! {
    // They are quick, and the rare inputs are the ones that matter.
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// [V1-17] [V2-17] [SEC-4] No bytes make a parser panic or reach beyond them.
    #[test]
    fn never_panics(bytes in mutated(), policy in policies()) {
        match parse(&bytes, &policy) {
            Ok(Parse::Partial) => prop_assert!(bytes.len() < policy.max_len.max(V1_MAX_LEN)),
            Ok(Parse::Complete { header, len }) => {
                prop_assert!(len <= bytes.len());
                drop(format!("{header:?}"));
            }
            Err(refusal) => drop(refusal.to_string()),
        }
        if let Ok((header, len)) = parse_datagram(&bytes, &policy) {
            prop_assert!(len <= bytes.len());
            drop(format!("{header:?}"));
        }
        if let Ok((_, len)) = spp::parse(&bytes) {
            prop_assert!(len <= bytes.len());
        }
    }

    /// [G-4] [G-7] A prefix asks for more or gives the answer that the whole gives.
    #[test]
    fn splits_make_no_difference(bytes in mutated(), policy in policies()) {
        let whole = parse(&bytes, &policy);
        for end in 0..bytes.len() {
            let part = parse(&bytes[..end], &policy);
            prop_assert!(part == Ok(Parse::Partial) || part == whole, "{end}: {part:?}, {whole:?}");
        }
    }

    /// [U-1] In a datagram a header is right where it is on a stream, or not at all.
    #[test]
    fn datagrams_are_read_like_streams(bytes in mutated()) {
        match (parse(&bytes, &Policy::default()), datagram(&bytes)) {
            (Ok(Parse::Partial), other) => {
                prop_assert!(matches!(other, Err("datagram_incomplete" | "v1_in_datagram" | "transport_mismatch")))
            }
            (Ok(Parse::Complete { header, len }), Ok(other)) => {
                prop_assert_eq!((header, len), other);
            }
            (Ok(_), Err(reason)) => {
                prop_assert!(["v1_in_datagram", "transport_mismatch"].contains(&reason))
            }
            (Err(refusal), Ok(_)) => prop_assert_eq!(refusal.name(), "transport_mismatch"),
            (Err(_), Err(_)) => {}
        }
    }

    /// [S-1] [V1-14] [V1-19]
    #[test]
    fn v1_round_trip(ends in endpoints(), payload in vec(any::<u8>(), 0..20)) {
        let line = write::v1(Some(&ends)).into_bytes();
        let received = [&line[..], &payload].concat();
        let (header, len) = complete(&received);
        prop_assert_eq!(len, line.len());
        let stated = header.endpoints.map(Endpoints::canonical);
        prop_assert_eq!(stated, Some(ends.canonical()));
    }

    /// [S-4] [V2-20] [V2-21]
    #[test]
    fn v2_round_trip(ends in endpoints(), tlvs in free_tlvs(), datagrams: bool) {
        let start = if datagrams { V2Builder::datagram(&ends) } else { V2Builder::stream(&ends) };
        let builder = tlvs.iter().fold(start, |builder, (kind, value)| builder.tlv(*kind, value));
        let bytes = builder.crc32c().build().expect("a short header");
        let (header, len) = if datagrams { datagram(&bytes).expect("valid") } else { complete(&bytes) };
        prop_assert_eq!(len, bytes.len());
        prop_assert_eq!(header.endpoints.map(Endpoints::canonical), Some(ends.canonical()));
        let read: Vec<_> = header.tlvs.iter().collect();
        prop_assert_eq!(read.len(), tlvs.len() + 1);
        for ((kind, value), read) in tlvs.iter().zip(read) {
            prop_assert_eq!((*kind, &value[..]), raw(read));
        }
    }

    /// [SPP-1] [SPP-2] [SPP-5]
    #[test]
    fn spp_round_trip(ends in endpoints(), bytes: [u8; 36]) {
        let written = spp::write(&ends);
        let (header, _) = spp::parse(&written).expect("a valid header");
        prop_assert_eq!(header.endpoints, Some(ends.canonical()));

        let received = [&b"\x56\xec"[..], &bytes].concat();
        let (header, _) = spp::parse(&received).expect("a valid header");
        prop_assert_eq!(&spp::write(&header.endpoints.expect("addresses"))[..], &received[..]);
    }

    /// [V2-29] No header is complete without its last byte.
    #[test]
    fn complete_headers_need_every_byte(bytes in v2()) {
        prop_assert!(is_partial(&bytes[..bytes.len() - 1]));
        prop_assert_eq!(complete(&bytes).1, bytes.len());
    }

    /// [SEC-3] Every refusal has a name that is listed, and a text on one line.
    #[test]
    fn refusals_are_listed(bytes in mutated(), policy in policies()) {
        if let Err(refusal) = parse(&bytes, &policy) {
            prop_assert!(Refusal::ALL.contains(&refusal.name()));
            prop_assert!(!refusal.to_string().contains('\n'));
        }
    }
}

/// Type and value of the TLVs that `free_tlvs` makes.
fn raw(tlv: Tlv<'_>) -> (u8, &[u8]) {
    match tlv {
        Tlv::Alpn(value) => (kind::ALPN, value.as_bytes()),
        Tlv::Authority(value) => (kind::AUTHORITY, value.as_bytes()),
        Tlv::Noop(value) => (kind::NOOP, value.as_bytes()),
        Tlv::Netns(value) => (kind::NETNS, value.as_bytes()),
        other => panic!("{other:?}"),
    }
}
