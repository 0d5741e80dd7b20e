//! CRC-32C, a byte at a time.

#![expect(
    clippy::cast_possible_truncation,
    reason = "bytes and ports in wider integers"
)]

/// Of RFC 3720, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

pub const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut entry = index as u32;
        let mut bit = 0;
        while bit < u8::BITS {
            entry = entry >> 1 ^ (POLYNOMIAL & 0_u32.wrapping_sub(entry & 1));
            bit += 1;
        }
        table[index] = entry;
        index += 1;
    }
    table
}

pub const START: u32 = u32::MAX;

#[inline(always)]
#[must_use]
pub const fn step(crc: u32, entry: u32) -> u32 {
    entry ^ crc >> 8
}

/// Where the entry for the next byte is.
#[inline(always)]
#[must_use]
pub const fn index(crc: u32, byte: u8) -> u8 {
    crc as u8 ^ byte
}
