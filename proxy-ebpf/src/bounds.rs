//! Lengths that the verifier believes.

use core::ptr;

/// `n` if it is between `LEAST` and `MOST`.
///
/// The compiler must not see both comparisons at once: it makes one of them, of `n - LEAST`, and
/// Linux 6.12's verifier doesn't carry the bounds of that over to `n`:
///
/// ```text
/// R4 invalid zero-sized read: u64=[0,63]
/// ```
///
/// Nor may the second one be of unsigned numbers: below 1 is then written as 0, of which Linux 6.1's
/// verifier learns nothing for the other side.
#[inline(always)]
pub fn bounded<const LEAST: u64, const MOST: u64>(n: u64) -> Option<u64> {
    let n = opaque(n);
    if n > MOST {
        return None;
    }
    let n = opaque(n);
    if n.cast_signed() < LEAST.cast_signed() {
        return None;
    }
    Some(opaque(n))
}

/// `n`, of which the compiler knows nothing any more.
#[inline(always)]
pub fn opaque(n: u64) -> u64 {
    // SAFETY: a plain load of what lies on the stack.
    unsafe { ptr::read_volatile(&raw const n) }
}
