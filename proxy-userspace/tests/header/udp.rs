//! Headers in datagrams, where there is no more to wait for.

use truepeer::header::{V2Builder, Versions, parse_datagram};

use crate::{INET, datagram, ends, only, raw_v2};

/// [U-1] [U-7] Header and payload of one datagram; 28 and 52 bytes without TLVs.
#[test]
fn u_1_reads_a_datagram() {
    for (a, b, expected) in [
        ("192.0.2.1:5353", "198.51.100.2:53", 28),
        ("[2001:db8::1]:5353", "[2001:db8::2]:53", 52),
    ] {
        let ends = ends(a, b);
        let mut bytes = V2Builder::datagram(&ends).build().expect("a short header");
        bytes.extend(b"query");
        let (header, len) = datagram(&bytes).expect("a valid datagram");
        assert_eq!((header.endpoints, len), (Some(ends), expected));
        assert_eq!(&bytes[len..], b"query");
    }
}

/// [U-1] There is no more to come, so every proper prefix is refused.
#[test]
fn u_1_refuses_incomplete_headers() {
    let bytes = raw_v2(0x21, 0x12, INET);
    for len in 0..bytes.len() {
        assert_eq!(datagram(&bytes[..len]), Err("datagram_incomplete"));
    }
}

/// [U-2] [U-6] A datagram without a header is refused, though others of its flow had one.
#[test]
fn u_2_refuses_plain_datagrams() {
    assert_eq!(datagram(b"query"), Err("bad_signature"));
    assert_eq!(datagram(b"\x56\xec"), Err("bad_signature"));
}

/// [U-3] The family has to say DGRAM.
#[test]
fn u_3_refuses_streams() {
    assert_eq!(
        datagram(&raw_v2(0x21, 0x11, INET)),
        Err("transport_mismatch")
    );
    assert_eq!(
        datagram(&raw_v2(0x21, 0x21, &[0; 36])),
        Err("transport_mismatch")
    );
}

/// [U-4] v1 has no word for UDP.
#[test]
fn u_4_refuses_v1() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY UNKNOWN\r\n",
    ] {
        assert_eq!(datagram(line.as_bytes()), Err("v1_in_datagram"));
    }
}

/// [G-8] The version can be restricted here too.
#[test]
fn g_8_restricts_the_version() {
    let bytes = raw_v2(0x21, 0x12, INET);
    assert!(parse_datagram(&bytes, &only(Versions::V2)).is_ok());
    let refusal = parse_datagram(&bytes, &only(Versions::V1)).expect_err("v2");
    assert_eq!(refusal.name(), "version_not_allowed");
}

/// [V2-6] LOCAL, from a health check.
#[test]
fn v2_6_takes_local() {
    let bytes = raw_v2(0x20, 0, b"");
    let (header, len) = datagram(&bytes).expect("a valid datagram");
    assert_eq!((header.endpoints, len), (None, 16));
}
