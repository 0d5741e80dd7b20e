//! What nobody outside knows, and so can't make up answers from.

use aya_ebpf::{macros::map, maps::Array};
use proxy_common::{
    cookie::{Asked, Key},
    flow::Tuple,
};

#[map(name = "secret")]
static SECRET: Array<Key> = Array::with_max_entries(1, 0);

#[inline(always)]
pub fn secret() -> Option<&'static Key> {
    SECRET.get(0)
}

/// The MAC of an answer.
#[inline(always)]
pub fn mac(asked: &Asked<'_>, options: u32, tick: u32) -> u64 {
    mac_once(asked.tuple, asked.service, options, tick)
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "mac")]
#[inline(never)]
extern "C" fn mac_once(tuple: *const Tuple, service: u32, options: u32, tick: u32) -> u64 {
    // SAFETY: of the caller's, if it isn't null, which the verifier has asked about.
    let (Some(tuple), Some(secret)) = (unsafe { tuple.as_ref() }, secret()) else {
        return 0;
    };
    let asked = Asked {
        tuple,
        service,
        sequence: 0,
    };
    asked.mac(secret, options, tick)
}
