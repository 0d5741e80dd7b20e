//! What holds for headers of either version: telling them apart, waiting, what is allowed.

use truepeer::header::{Parse, Policy, Versions, parse};

use crate::{INET, assert_waits_for_all_of, complete, is_partial, only, raw_v2, refused};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n";

fn v2() -> Vec<u8> {
    raw_v2(0x21, 0x11, INET)
}

/// [G-1] Plain traffic is never taken for a connection without a header.
#[test]
fn g_1_refuses_plain_traffic() {
    for plain in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"POST / HTTP/1.1\r\n",
        b"\r\n\r\nGET",
        b"\x16\x03\x01\x02\x00",
        b"SSH-2.0-x\r\n",
        b"\0",
    ] {
        assert_eq!(refused(plain), "bad_signature");
    }
}

/// [G-3] [G-4] Nothing comes out before the header is whole; a part of one is waited for.
#[test]
fn g_3_and_g_4_wait_for_the_whole_header() {
    assert_waits_for_all_of(V1);
    assert_waits_for_all_of(&v2());
}

/// [G-6] The version is told from the signature.
#[test]
fn g_6_detects_the_version() {
    assert_eq!(complete(V1).0.version.to_string(), "v1");
    assert_eq!(complete(&v2()).0.version.to_string(), "v2");
    assert_eq!(refused(b"QUIT\n"), "bad_signature");
}

/// [G-7] The first wrong byte is enough, wherever it is.
#[test]
fn g_7_refuses_at_the_first_wrong_byte() {
    for (right, wrong, reason) in [
        (&b""[..], b'X', "bad_signature"),
        (b"PROX", b'y', "bad_signature"),
        (b"\r\n\r\n\0\r\nQUIT", b'\r', "bad_signature"),
        (b"\r\n\r\n\0\r\nQUIT\n", 0x31, "bad_version"),
        (b"\r\n\r\n\0\r\nQUIT\n", 0x22, "bad_command"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21", 0x41, "bad_family"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21", 0x12, "transport_mismatch"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", 11, "address_block_short"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff", 0xff, "header_too_long"),
        (b"PROXY TCP", b'5', "v1_bad_protocol"),
        (b"PROXY TCP4 ", b'f', "v1_bad_address"),
        (b"PROXY TCP4 ", b' ', "v1_field_count"),
        (b"PROXY TCP6 ::", b'g', "v1_bad_address"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 ", b'+', "port_not_decimal"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", b' ', "v1_field_count"),
        (b"PROXY TCP4 1.2.3.4", b'\n', "v1_lone_line_end"),
    ] {
        assert!(is_partial(right), "{}", right.escape_ascii());
        assert_eq!(refused(&[right, &[wrong]].concat()), reason);
    }
}

/// [G-8] Both versions by default, or the one that is configured.
#[test]
fn g_8_restricts_the_version() {
    let v2 = v2();
    for (versions, allowed, refused) in [(Versions::V1, V1, &v2[..]), (Versions::V2, &v2[..], V1)] {
        let policy = only(versions);
        assert!(matches!(
            parse(allowed, &policy),
            Ok(Parse::Complete { .. })
        ));
        let refusal = parse(refused, &policy).expect_err("the other version");
        assert_eq!(refusal.name(), "version_not_allowed");
        let plain = parse(b"POST / HTTP/1.1", &policy).expect_err("no header at all");
        assert_eq!(plain.name(), "bad_signature");
    }
    assert_eq!(Policy::default().versions, Versions::Any);
}

/// [G-9] [V1-19] [V2-14] What follows one header is payload, another header too.
#[test]
fn g_9_leaves_a_second_header_alone() {
    for first in [V1, &v2()] {
        for second in [V1, &v2(), b"\r\n"] {
            let (header, len) = complete(first);
            let both = [first, second].concat();
            assert_eq!(complete(&both), (header, len));
            assert_eq!(&both[len..], second);
        }
    }
}
