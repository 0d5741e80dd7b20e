//! What a hostile balancer or client can't do by a header.

use std::collections::BTreeSet;

use truepeer::header::{Parse, PeerBytes, Policy, Refusal, Tlv, parse};

use crate::{complete, raw_v2, refused, tlv, with_tlvs};

/// Control characters, a format string, an escape sequence, invalid UTF-8.
const NASTY: &[u8] = b"a\r\n\0%n{}\x1b[31m\xff\\\"b";
const ESCAPED: &str = r#"a\x0d\x0a\x00%n{}\x1b[31m\xff\x5c"b"#;

/// [SEC-3] [SEC-6] [V2-19] [V2-24] Text from the peer is shown escaped, in every way.
#[test]
fn sec_3_escapes_text() {
    for kind in [0x01, 0x02, 0x04, 0x05, 0x30, 0x77, 0xea] {
        let value = if kind == 0xea {
            [b"\x01", NASTY].concat()
        } else {
            NASTY.to_vec()
        };
        let header = with_tlvs(&tlv(kind, &value));
        let shown = format!("{:?}", complete(&header).0);
        assert!(shown.contains(ESCAPED), "{shown}");
        assert!(
            shown.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{shown}"
        );
        let json = serde_json::to_string(&complete(&header).0).expect("JSON");
        assert!(
            json.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{json}"
        );
    }
    assert_eq!(PeerBytes::new(NASTY).to_string(), ESCAPED);
    assert_eq!(PeerBytes::new(NASTY).as_bytes(), NASTY);
}

/// [SEC-3] The form in which `connections --json` shows a header.
#[test]
fn sec_3_serializes() {
    let ssl = tlv(0x20, &[b"\x03\0\0\0\0", &tlv(0x22, b"c\n")[..]].concat());
    let header = with_tlvs(&[tlv(1, b"h2"), ssl, tlv(0x77, b"\xff")].concat());
    let expected = concat!(
        r#"{"version":"v2","command":"proxy","#,
        r#""endpoints":{"source":"192.0.2.1:40000","destination":"198.51.100.2:443"},"#,
        r#""tlvs":[{"type":"alpn","value":"h2"},"#,
        r#"{"type":"ssl","value":{"client":["SSL","CERT_CONN"],"verify":0,"#,
        r#""subs":[{"type":"common_name","value":"c\\x0a"}]}},"#,
        r#"{"type":"unknown","value":{"kind":119,"value":"\\xff"}}]}"#,
    );
    let json = serde_json::to_string(&complete(&header).0).expect("JSON");
    assert_eq!(json, expected);
}

/// [SEC-3] [SEC-4] However long a text is, what is shown of it is not.
#[test]
fn sec_4_bounds_what_is_shown() {
    let long = [0xff; 60_000];
    let shown = PeerBytes::new(&long).to_string();
    assert!(shown.len() < 4 * PeerBytes::MAX_SHOWN + 30);
    assert!(shown.ends_with("... (59745 more bytes)"));
    assert_eq!(PeerBytes::new(&long[..255]).to_string().len(), 4 * 255);
}

/// [SEC-3] A refusal's text has no byte of the header, and is one line.
#[test]
fn sec_3_refusals_show_no_bytes() {
    let secret = "sEcReT";
    for bytes in [
        secret.to_owned(),
        format!("PROXY {secret}"),
        format!("PROXY TCP4 {secret}"),
        format!("PROXY TCP4 1.2.3.4 5.6.7.8 {secret}"),
        format!("PROXY UNKNOWN {secret}\n"),
        format!("PROXY UNKNOWN {}", secret.repeat(30)),
    ] {
        let refusal = parse(bytes.as_bytes(), &Policy::default()).expect_err("a refusal");
        let shown = format!("{refusal} {refusal:?}");
        assert!(!shown.contains(secret), "{shown}");
        assert!(!shown.contains('\n'), "{shown}");
    }
}

/// [SEC-3] Names are fit for metrics, and none is given twice.
#[test]
fn refusals_have_stable_names() {
    let names: BTreeSet<_> = Refusal::ALL.iter().collect();
    assert_eq!(names.len(), Refusal::ALL.len());
    for name in names {
        assert!(
            name.bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        );
    }
    assert!(Refusal::ALL.contains(&refused(b"x")));
}

/// [SEC-4] [V2-13] A length is refused or waited for, never prepared for.
#[test]
fn sec_4_bounds_what_is_pending() {
    let stated = |len: u16| [&raw_v2(0x21, 0x11, b"")[..14], &len.to_be_bytes()].concat();
    assert_eq!(refused(&stated(u16::MAX)), "header_too_long");
    assert_eq!(parse(&stated(4080), &Policy::default()), Ok(Parse::Partial));
}

/// [SEC-5] [V1-5] [V2-6] [V2-8] No client address, so none can be mistaken for one.
#[test]
fn sec_5_falls_back_to_the_balancer() {
    for header in [
        b"PROXY UNKNOWN 10.0.0.1 10.0.0.2 1 2\r\n".to_vec(),
        raw_v2(0x20, 0x11, &[10; 12]),
        raw_v2(0x21, 0x00, &[10; 12]),
        raw_v2(0x21, 0x31, &[10; 216]),
    ] {
        assert_eq!(complete(&header).0.endpoints, None);
    }
}

/// [SEC-7] Names that a resolver would know are no addresses.
#[test]
fn sec_7_resolves_nothing() {
    for name in ["localhost", "example.com", "face.b00c", "1", "0x7f000001"] {
        for protocol in ["TCP4", "TCP6"] {
            let line = format!("PROXY {protocol} {name} {name} 1 2\r\n");
            assert_eq!(refused(line.as_bytes()), "v1_bad_address", "{line}");
        }
    }
}

/// [SEC-8] SSL within SSL is a value like any other, however deep.
#[test]
fn sec_8_does_not_recurse() {
    let mut nested = vec![];
    for _ in 0..500 {
        nested = tlv(0x20, &[b"\x01\0\0\0\0", &nested[..]].concat());
    }
    let header = with_tlvs(&nested);
    assert!(header.len() > 4000);
    let Some(Tlv::Ssl(ssl)) = complete(&header).0.tlvs.iter().next() else {
        panic!("no SSL");
    };
    assert!(format!("{:?}", ssl.subs).contains("Unknown { kind: 32"));
}
