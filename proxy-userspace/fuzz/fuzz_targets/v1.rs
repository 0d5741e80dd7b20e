//! A v1 line that is accepted says the same when it is written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use truepeer::header::{Endpoints, Parse, Policy, Versions, parse, write};

fuzz_target!(|bytes: &[u8]| {
    let policy = Policy {
        versions: Versions::V1,
        ..Policy::default()
    };
    match parse(bytes, &policy) {
        Ok(Parse::Complete { header, len }) => {
            assert!(len <= bytes.len().min(107));
            assert!(bytes[..len].ends_with(b"\r\n"));
            assert_eq!(
                bytes[..len].iter().filter(|byte| **byte == b'\n').count(),
                1
            );
            if let Some(stated) = header.endpoints {
                same_again(stated, &policy);
            }
        }
        Ok(Parse::Partial) => assert!(bytes.len() < 107),
        Err(refusal) => assert!(refusal.to_string().is_ascii()),
    }
});

fn same_again(stated: Endpoints, policy: &Policy) {
    let line = write::v1(Some(&stated)).into_bytes();
    let Ok(Parse::Complete { header, len }) = parse(&line, policy) else {
        panic!("our own line is refused");
    };
    assert_eq!((header.endpoints, len), (Some(stated), line.len()));
}
