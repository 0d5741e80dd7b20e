//! A v2 header on a stream and in a datagram, with every TLV walked and shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use truepeer::header::{Header, Parse, Policy, Ssl, Tlv, Versions, parse, parse_datagram};

fuzz_target!(|bytes: &[u8]| {
    let policy = Policy {
        versions: Versions::V2,
        max_len: Policy::LARGEST_MAX_LEN,
    };
    match parse(bytes, &policy) {
        Ok(Parse::Complete { header, len }) => walk(header, &bytes[..len]),
        Ok(Parse::Partial) => assert!(bytes.len() < Policy::LARGEST_MAX_LEN),
        Err(refusal) => assert!(refusal.to_string().is_ascii()),
    }
    if let Ok((header, len)) = parse_datagram(bytes, &policy) {
        walk(header, &bytes[..len]);
    }
});

fn walk(header: Header<'_>, bytes: &[u8]) {
    let stated = u16::from_be_bytes([bytes[14], bytes[15]]);
    assert_eq!(bytes.len(), 16 + usize::from(stated));
    assert!(
        format!("{header:?}")
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~'))
    );
    for tlv in header.tlvs.iter() {
        if let Tlv::Ssl(ssl) = tlv {
            walk_ssl(ssl, bytes);
        }
    }
}

fn walk_ssl(ssl: Ssl<'_>, header: &[u8]) {
    assert!(ssl.subs.iter().count() * 3 < header.len());
    if let Some(name) = ssl.verified_common_name() {
        assert_eq!(ssl.verify, 0);
        assert!(name.as_bytes().len() < header.len());
    }
}
