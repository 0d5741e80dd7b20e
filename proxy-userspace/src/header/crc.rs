//! The checksum that a v2 header may carry.

use crc32c::{crc32c, crc32c_append};

/// Bytes of the CRC32C field.
pub(super) const LEN: usize = 4;

/// CRC-32C of a header whose four bytes at `at` count as zero (V2-20). `None`: no room at `at`.
pub(super) fn with_field_zeroed(header: &[u8], at: usize) -> Option<u32> {
    let (before, rest) = header.split_at_checked(at)?;
    let (_, after) = rest.split_at_checked(LEN)?;
    let sum = crc32c_append(crc32c(before), &[0; LEN]);
    Some(crc32c_append(sum, after))
}
