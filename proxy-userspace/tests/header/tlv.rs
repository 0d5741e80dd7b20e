//! The extensions of v2: each type, its limits, and lists of them.

use truepeer::header::{PeerBytes, SslClient, SslSub, Tlv, V2Builder, kind};

use crate::{complete, ends, refused, tlv, with_tlvs};

/// The TLVs that `bytes` are read as.
fn read(bytes: &[u8], check: impl FnOnce(&[Tlv<'_>])) {
    let header = with_tlvs(bytes);
    let tlvs: Vec<_> = complete(&header).0.tlvs.iter().collect();
    check(&tlvs);
}

fn text(text: &str) -> PeerBytes<'_> {
    PeerBytes::new(text.as_bytes())
}

/// A builder with addresses.
fn builder() -> V2Builder {
    V2Builder::stream(&ends("192.0.2.1:40000", "198.51.100.2:443"))
}

#[test]
fn reads_each_type() {
    let id = [b'u'; 128];
    for (rules, kind, value, expected) in [
        ("[V2-16] [V2-18]", 0x01, &b"h2"[..], Tlv::Alpn(text("h2"))),
        (
            "[V2-19]",
            0x02,
            b"a.example",
            Tlv::Authority(text("a.example")),
        ),
        ("[V2-22]", 0x04, b"", Tlv::Noop(text(""))),
        ("[V2-22]", 0x04, b"xyz", Tlv::Noop(text("xyz"))),
        (
            "[V2-23] 128 bytes",
            0x05,
            &id,
            Tlv::UniqueId(PeerBytes::new(&id)),
        ),
        ("[V2-23]", 0x05, b"", Tlv::UniqueId(text(""))),
        ("[V2-24]", 0x30, b"blue", Tlv::Netns(text("blue"))),
        (
            "[V2-25]",
            0xea,
            b"\x01vpce-0a",
            Tlv::AwsVpcEndpoint(text("vpce-0a")),
        ),
        (
            "[V2-25] little endian",
            0xee,
            &[1, 4, 3, 2, 1],
            Tlv::AzureLink(0x0102_0304),
        ),
        (
            "[V2-25]",
            0xe0,
            &[0, 0, 0, 0, 0, 0, 1, 2],
            Tlv::GcpPscConnection(0x0102),
        ),
    ] {
        read(&tlv(kind, value), |tlvs| {
            assert_eq!(tlvs, [expected], "{rules}")
        });
    }
}

#[test]
fn takes_what_it_does_not_know() {
    for (rules, kind, value) in [
        ("[V2-15]", 0x00, &b""[..]),
        ("[V2-15]", 0x7f, b"x"),
        ("[V2-16] an SSL type outside of SSL", 0x22, b"name"),
        ("[V2-25] experimental", 0xf0, b"x"),
        ("[V2-25] future", 0xff, b""),
        ("[V2-25] another AWS subtype", 0xea, b"\x02x"),
        ("[V2-25] no AWS subtype", 0xea, b""),
        ("[V2-25] another Azure size", 0xee, b"\x01\0\0\0"),
        (
            "[V2-25] 0xE0 is hitch's certificate too",
            0xe0,
            b"-----BEGIN CERTIFICATE-----",
        ),
    ] {
        let value_of = PeerBytes::new(value);
        let expected = Tlv::Unknown {
            kind,
            value: value_of,
        };
        read(&tlv(kind, value), |tlvs| {
            assert_eq!(tlvs, [expected], "{rules}")
        });
    }
}

/// [V2-15] Any order, and repeats.
#[test]
fn v2_15_keeps_the_order() {
    let bytes = [tlv(5, b"id"), tlv(1, b"h2"), tlv(0x42, b""), tlv(1, b"h3")].concat();
    read(&bytes, |tlvs| {
        assert_eq!(tlvs.len(), 4);
        assert_eq!(tlvs[1], Tlv::Alpn(text("h2")));
        assert_eq!(tlvs[3], Tlv::Alpn(text("h3")));
    });
}

/// [V2-17] Bytes that don't add up to TLVs, and sizes that a type can't have.
#[test]
fn v2_17_refuses_malformed_vectors() {
    for (rules, bytes) in [
        ("[V2-17] one byte", vec![1]),
        ("[V2-17] two bytes", vec![1, 0]),
        ("[V2-17] value past the end", vec![1, 0, 1]),
        ("[V2-17] 3+len wraps 16 bits", vec![1, 0xff, 0xfd]),
        ("[V2-17] 3+len wraps 16 bits", vec![1, 0xff, 0xff, 0]),
        (
            "[V2-17] after a good one",
            [tlv(1, b"h2"), vec![2]].concat(),
        ),
        ("[V2-23] 129 bytes", tlv(5, &[0; 129])),
        (
            "[V2-26] shorter than its fixed part",
            tlv(0x20, &[1, 0, 0, 0]),
        ),
        ("[V2-26] empty", tlv(0x20, b"")),
        (
            "[V2-26] a sub-TLV past the end",
            tlv(0x20, b"\x01\0\0\0\0\x22\0\x02x"),
        ),
        (
            "[V2-26] dribble after the sub-TLVs",
            tlv(0x20, b"\x01\0\0\0\0\x22\0\x01x\x23"),
        ),
    ] {
        let with_payload = [with_tlvs(&bytes), vec![0; 70_000]].concat();
        assert_eq!(refused(&with_payload), "tlv_malformed", "{rules}");
    }
}

/// [V2-20] The sum of a header computed by hand, in network order, wherever the field is.
#[test]
fn v2_20_verifies_the_sum() {
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    for rest in [tlv(1, b"h2"), vec![]] {
        let crc_at = 16 + 12 + 3;
        let mut header = with_tlvs(&[tlv(3, &[0; 4]), rest].concat());
        let sum = crc32c::crc32c(&header);
        header[crc_at..crc_at + 4].copy_from_slice(&sum.to_be_bytes());
        let parsed = complete(&header).0.tlvs.iter().next();
        assert_eq!(parsed, Some(Tlv::Crc32c(sum)));

        header[crc_at..crc_at + 4].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(refused(&header), "crc_mismatch");
    }
}

/// [V2-21] One wrong bit anywhere is noticed; no CRC32C is fine.
#[test]
fn v2_21_refuses_a_wrong_sum() {
    let header = builder()
        .tlv(1, b"h2")
        .crc32c()
        .build()
        .expect("a short header");
    complete(&header);
    // What is left out has reasons of its own, or turns the field into another type's.
    let (block, alpn, sum) = (16..28, 31..33, 36..40);
    for at in block.chain(alpn).chain(sum) {
        let mut flipped = header.clone();
        flipped[at] ^= 0x01;
        assert_eq!(refused(&flipped), "crc_mismatch", "{at}");
    }
    complete(&builder().tlv(1, b"h2").build().expect("a short header"));
}

/// [V2-21] The field is four bytes and there is one of it.
#[test]
fn v2_21_refuses_odd_sums() {
    for len in [0, 3, 5, 8] {
        assert_eq!(
            refused(&with_tlvs(&tlv(3, &vec![0; len]))),
            "crc_bad_length"
        );
    }
    let twice = builder()
        .tlv(kind::CRC32C, &[0; 4])
        .crc32c()
        .build()
        .expect("a short header");
    assert_eq!(refused(&twice), "crc_repeated");
}

/// [V2-16] [V2-26] All that an SSL TLV holds.
#[test]
fn v2_26_reads_ssl() {
    let subs: [(u8, &[u8]); 9] = [
        (0x21, b"TLSv1.3"),
        (0x22, b"client"),
        (0x23, b"TLS_AES_128_GCM_SHA256"),
        (0x24, b"RSA-SHA256"),
        (0x25, b"RSA2048"),
        (0x26, b"x25519"),
        (0x27, b"ed25519"),
        (0x28, b"\x30\x82"),
        (0x29, b"later"),
    ];
    let client = SslClient::SSL | SslClient::CERT_CONN;
    let header = builder()
        .ssl(client, 0x0102_0304, &subs)
        .build()
        .expect("a short header");
    let Some(Tlv::Ssl(ssl)) = complete(&header).0.tlvs.iter().next() else {
        panic!("no SSL");
    };
    assert_eq!((ssl.client, ssl.verify), (client, 0x0102_0304));
    let expected = [
        SslSub::Version(text("TLSv1.3")),
        SslSub::CommonName(text("client")),
        SslSub::Cipher(text("TLS_AES_128_GCM_SHA256")),
        SslSub::SigAlg(text("RSA-SHA256")),
        SslSub::KeyAlg(text("RSA2048")),
        SslSub::Group(text("x25519")),
        SslSub::SigScheme(text("ed25519")),
        SslSub::ClientCert(PeerBytes::new(b"\x30\x82")),
        SslSub::Unknown {
            kind: 0x29,
            value: text("later"),
        },
    ];
    assert_eq!(ssl.subs.iter().collect::<Vec<_>>(), expected);
}

/// [V2-26] A name counts with a certificate, and if that was verified.
#[test]
fn v2_26_trusts_verified_names_only() {
    let (conn, sess) = (SslClient::CERT_CONN, SslClient::CERT_SESS);
    for (client, verify, trusted) in [
        (SslClient::SSL | conn, 0, true),
        (SslClient::SSL | sess, 0, true),
        (SslClient::SSL, 0, false),
        (SslClient::SSL | conn, 1, false),
        (SslClient::empty(), 0, false),
    ] {
        let header = builder().ssl(client, verify, &[(0x22, b"root")]).build();
        let header = header.expect("a short header");
        let Some(Tlv::Ssl(ssl)) = complete(&header).0.tlvs.iter().next() else {
            panic!("no SSL");
        };
        let name = trusted.then(|| text("root"));
        assert_eq!(ssl.verified_common_name(), name, "{client:?} {verify}");
    }
}
