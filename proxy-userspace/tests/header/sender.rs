//! What is written is what the rules for senders say.

use truepeer::header::{Command, SslClient, Tlv, V2Builder, kind, write};

use crate::{complete, ends, with_tlvs};

/// [S-1] [S-2] [S-3] Canonical text.
#[test]
fn s_1_writes_v1() {
    for (a, b, line) in [
        (
            "192.0.2.1:80",
            "198.51.100.2:0",
            "TCP4 192.0.2.1 198.51.100.2 80 0",
        ),
        (
            "[2001:db8::1]:80",
            "[::1]:65535",
            "TCP6 2001:db8::1 ::1 80 65535",
        ),
        (
            "[2001:db8::1]:1",
            "198.51.100.2:2",
            "TCP6 2001:db8::1 ::ffff:c633:6402 1 2",
        ),
        ("192.0.2.1:1", "[::1]:2", "TCP6 ::ffff:c000:201 ::1 1 2"),
        ("[fe80::1%3]:1", "[fe80::2%3]:2", "TCP6 fe80::1 fe80::2 1 2"),
    ] {
        assert_eq!(write::v1(Some(&ends(a, b))), format!("PROXY {line}\r\n"));
    }
    assert_eq!(write::v1(None), "PROXY UNKNOWN\r\n");
}

/// [V1-6] A client with an address is never sent as UNKNOWN.
#[test]
fn v1_6_names_the_client() {
    let line = write::v1(Some(&ends("127.0.0.1:1", "[::1]:2")));
    assert!(line.starts_with("PROXY TCP6 "));
}

/// [S-4] [V2-4] [V2-7] The bytes before the addresses, and the sum over all of them.
#[test]
fn s_4_writes_v2() {
    let (v4, v6) = (ends("1.2.3.4:1", "5.6.7.8:2"), ends("[::1]:1", "[::2]:2"));
    let mixed = ends("1.2.3.4:1", "[::2]:2");
    for (builder, fixed) in [
        (V2Builder::stream(&v4), [0x21, 0x11, 0, 12]),
        (V2Builder::stream(&v6), [0x21, 0x21, 0, 36]),
        (V2Builder::stream(&mixed), [0x21, 0x21, 0, 36]),
        (V2Builder::datagram(&v4), [0x21, 0x12, 0, 12]),
        (V2Builder::datagram(&v6), [0x21, 0x22, 0, 36]),
        (V2Builder::unspec(), [0x21, 0x00, 0, 0]),
        (V2Builder::stream(&v4).crc32c(), [0x21, 0x11, 0, 19]),
    ] {
        let header = builder.build().expect("a short header");
        assert_eq!(header[12..16], fixed);
        assert_eq!(header.len(), 16 + usize::from(fixed[3]));
    }
    let header = V2Builder::stream(&v4)
        .crc32c()
        .tlv(kind::ALPN, b"h2")
        .build();
    let header = header.expect("a short header");
    let last = complete(&header).0.tlvs.iter().last();
    assert!(matches!(last, Some(Tlv::Crc32c(_))));
}

/// [S-4] A length that 16 bits can't hold is an error, not a wrong length.
#[test]
fn s_4_refuses_too_much() {
    for len in [65_533, 65_536, 70_000] {
        let built = V2Builder::unspec().tlv(kind::NOOP, &vec![0; len]).build();
        assert_eq!(built.expect_err("too long").len, len + 3);
    }
    let nested = V2Builder::unspec().ssl(SslClient::SSL, 0, &[(0x28, &[0; 66_000])]);
    assert!(nested.build().is_err());
}

/// [S-5] [V2-30] Health checks.
#[test]
fn s_5_writes_local() {
    let header = V2Builder::local().build().expect("a short header");
    assert_eq!(header[12..], [0x20, 0, 0, 0]);
    let with_sum = V2Builder::local().crc32c().build().expect("a short header");
    assert_eq!(with_sum[12..16], [0x20, 0, 0, 7]);
    assert_eq!(complete(&with_sum).0.command, Command::Local);
}

/// [S-8] [G-10] [U-7] Nothing that isn't asked for is added, so old receivers take it.
#[test]
fn s_8_writes_short_headers() {
    let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let ends = ends(longest, longest);
    let v2 = V2Builder::stream(&ends)
        .crc32c()
        .build()
        .expect("a short header");
    assert_eq!(v2.len(), 59);
    assert_eq!(write::v1(Some(&ends)).len(), 104);
}

/// [G-12] What was received is sent on by its addresses, not by its bytes.
#[test]
fn g_12_forwards_the_advertised_addresses() {
    let received = with_tlvs(b"\x01\0\x02h2");
    let stated = complete(&received).0.endpoints.expect("addresses");
    let sent = V2Builder::stream(&stated).build().expect("a short header");
    assert_eq!(sent.len(), 28);
    assert_eq!(complete(&sent).0.endpoints, Some(stated));
}
