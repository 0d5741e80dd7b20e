//! What SPP reads, it writes back byte for byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use truepeer::header::spp;

fuzz_target!(|bytes: &[u8]| {
    let accepted = bytes.len() >= spp::LEN && bytes.starts_with(b"\x56\xec");
    match spp::parse(bytes) {
        Ok((header, len)) => {
            assert!(accepted);
            let stated = header.endpoints.expect("SPP always has addresses");
            assert_eq!(spp::write(&stated), bytes[..len]);
        }
        Err(refusal) => {
            assert!(!accepted);
            assert!(refusal.to_string().is_ascii());
        }
    }
});
