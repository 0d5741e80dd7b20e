//! However the bytes of a stream are split, the answer is the one that the whole gives. The first
//! byte chooses the policy.

#![no_main]

use libfuzzer_sys::fuzz_target;
use truepeer::header::{Parse, Policy, Versions, parse};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let policy = policy(choice);
    let whole = parse(bytes, &policy);
    if let Ok(Parse::Complete { len, .. }) = whole {
        assert_eq!(parse(&bytes[..len], &policy), whole);
        assert_eq!(parse(&bytes[..len - 1], &policy), Ok(Parse::Partial));
    }
    for end in 0..bytes.len() {
        let part = parse(&bytes[..end], &policy);
        assert!(
            part == Ok(Parse::Partial) || part == whole,
            "at {end}: {part:?}"
        );
    }
});

fn policy(choice: u8) -> Policy {
    Policy {
        versions: match choice % 4 {
            0 => Versions::V1,
            1 => Versions::V2,
            _ => Versions::Any,
        },
        max_len: if choice < 128 {
            64
        } else {
            Policy::default().max_len
        },
    }
}
