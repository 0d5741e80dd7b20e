//! Cloudflare's Simple Proxy Protocol, in datagrams.

use truepeer::header::{Version, spp};

use crate::ends;

/// 192.0.2.1:5353 to 198.51.100.2:53, written out.
const BYTES: [u8; 38] = [
    0x56, 0xec, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, //
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 2, //
    0x14, 0xe9, 0, 53,
];

/// [SPP-1] [SPP-2] Fields and order; mapped addresses are IPv4.
#[test]
fn spp_1_and_spp_2_read_and_write() {
    let ends = ends("192.0.2.1:5353", "198.51.100.2:53");
    let datagram = [&BYTES[..], b"payload"].concat();
    let (header, len) = spp::parse(&datagram).expect("a valid header");
    assert_eq!(
        (header.version, header.endpoints, len),
        (Version::Spp, Some(ends), 38)
    );
    assert_eq!(spp::write(&ends), BYTES);
}

/// [SPP-2] Only `::ffff:0:0/96` is IPv4, and each address on its own.
#[test]
fn spp_2_maps_each_address_on_its_own() {
    for (a, b) in [
        ("[2001:db8::1]:1", "198.51.100.2:2"),
        ("192.0.2.1:1", "[2001:db8::2]:2"),
        ("[::192.0.2.1]:1", "[64:ff9b::192.0.2.1]:2"),
        ("[::]:0", "[::1]:65535"),
    ] {
        let ends = ends(a, b);
        let bytes = spp::write(&ends);
        assert_eq!(
            spp::parse(&bytes).expect("a valid header").0.endpoints,
            Some(ends)
        );
    }
}

/// [SPP-3] [SPP-4] Short, or with another magic: refused, in each datagram.
#[test]
fn spp_3_refuses_anything_else() {
    for len in 0..BYTES.len() {
        let refusal = spp::parse(&BYTES[..len]).expect_err("a short header");
        assert_eq!(refusal.name(), "spp_short");
    }
    for wrong in [
        &b"query"[..],
        b"\x56\xed",
        b"\xec\x56",
        &[0; 38],
        b"PROXY UNKNOWN\r\n",
    ] {
        let refusal = spp::parse(wrong).expect_err("no SPP");
        assert_eq!(refusal.name(), "spp_bad_magic");
    }
}

/// [SPP-5] A reply gets the bytes that came in.
#[test]
fn spp_5_writes_what_it_read() {
    let (header, _) = spp::parse(&BYTES).expect("a valid header");
    assert_eq!(spp::write(&header.endpoints.expect("addresses")), BYTES);
}

/// [SPP-6] Nothing but 38 bytes: what follows is payload, whatever it looks like.
#[test]
fn spp_6_has_no_more_than_its_fields() {
    let twice = [BYTES, BYTES].concat();
    let (header, len) = spp::parse(&twice).expect("a valid header");
    assert_eq!(len, spp::LEN);
    assert!(header.tlvs.is_empty());
}
