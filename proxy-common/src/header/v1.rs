//! Version 1, byte by byte behind `PROXY TCP4 ` or `PROXY TCP6 `.

#![expect(
    clippy::cast_possible_truncation,
    reason = "bytes and ports in wider integers"
)]

use crate::{Addr, Endpoint};

pub const PREFIX: [u8; 9] = *b"PROXY TCP";
/// Where the first address begins.
pub const START: usize = 11;
/// With its CRLF.
pub const MAX_LEN: usize = 107;

/// What has been read. The daemon reads dotted tails of IPv6 addresses; nobody sends them for a
/// client that has an IPv6 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Address bits read so far, or those behind the `::`.
    high: u64,
    low: u64,
    /// Those in front of it.
    front_high: u64,
    front_low: u64,
    source_high: u64,
    source_low: u64,
    source_port: u32,
    v6: u32,
    /// Fields that are whole: source, destination, source port, destination port.
    field: u32,
    number: u32,
    digits: u32,
    /// Numbers that are whole in this address, and how many of them were in front of the `::`,
    /// plus one.
    parts: u32,
    gap: u32,
    last: u32,
}

/// What a byte has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// CR, behind all of the fields: LF has to follow.
    Whole,
    /// The daemon's to judge.
    Other,
}

impl Line {
    const PORTS: u32 = 2;
    const GROUPS: u32 = 8;
    const OCTETS: u32 = 4;
    /// In front of an IPv4 address's last 32 bits.
    const MAPPED: u64 = 0xffff << 32;

    /// `family` is the byte behind `TCP`.
    #[inline(always)]
    #[must_use]
    pub fn new(family: u8) -> Option<Self> {
        let v6 = match family {
            b'4' => 0,
            b'6' => 1,
            _ => return None,
        };
        Some(Self {
            v6,
            ..Self::default()
        })
    }

    #[inline(always)]
    pub const fn step(&mut self, byte: u8) -> Step {
        let last = self.last as u8;
        self.last = byte as u32;
        if self.v6 != 0 && self.field < Self::PORTS {
            self.step_v6(byte, last)
        } else {
            self.step_decimal(byte)
        }
    }

    /// Of an IPv4 address, or of a port.
    #[inline(always)]
    const fn step_decimal(&mut self, byte: u8) -> Step {
        let is_port = self.field >= Self::PORTS;
        if byte.is_ascii_digit() {
            // No heading zeroes.
            if self.digits != 0 && self.number == 0 {
                return Step::Other;
            }
            self.number = self.number * 10 + (byte - b'0') as u32;
            self.digits = 1;
            let most = if is_port {
                u16::MAX as u32
            } else {
                u8::MAX as u32
            };
            return if self.number > most {
                Step::Other
            } else {
                Step::More
            };
        }
        if self.digits == 0 {
            return Step::Other;
        }
        self.digits = 0;
        if is_port {
            self.end_port(byte)
        } else {
            self.end_octet(byte)
        }
    }

    #[inline(always)]
    const fn end_octet(&mut self, byte: u8) -> Step {
        self.low = self.low << 8 | self.number as u64;
        self.parts += 1;
        self.number = 0;
        match byte {
            b'.' if self.parts < Self::OCTETS => Step::More,
            b' ' if self.parts == Self::OCTETS => {
                self.low |= Self::MAPPED;
                self.end_address();
                Step::More
            }
            _ => Step::Other,
        }
    }

    #[inline(always)]
    const fn end_port(&mut self, byte: u8) -> Step {
        let is_source = self.field == Self::PORTS;
        if is_source && byte == b' ' {
            self.source_port = self.number;
            self.field += 1;
            self.number = 0;
            return Step::More;
        }
        if !is_source && byte == b'\r' {
            return Step::Whole;
        }
        Step::Other
    }

    #[inline(always)]
    const fn step_v6(&mut self, byte: u8, last: u8) -> Step {
        if let Some(digit) = hex(byte) {
            // An address may begin with two colons, but not with one.
            let alone = last == b':' && self.parts == 0 && self.gap == 0;
            if self.digits == 4 || alone {
                return Step::Other;
            }
            self.number = self.number << 4 | digit;
            self.digits += 1;
            return Step::More;
        }
        let had_digits = self.digits != 0;
        if had_digits {
            self.end_group();
        }
        match byte {
            b':' if had_digits => Step::More,
            b':' => self.colon(last),
            b' ' => self.end_v6(had_digits, last),
            _ => Step::Other,
        }
    }

    /// A colon with no digits before it: the second one of a `::`, or the first one of a `::` that
    /// the address begins with.
    #[inline(always)]
    const fn colon(&mut self, last: u8) -> Step {
        if self.parts == 0 && self.gap == 0 && last != b':' {
            // Only another one makes sense of it.
            return Step::More;
        }
        if last != b':' || self.gap != 0 {
            return Step::Other;
        }
        self.gap = self.parts + 1;
        self.front_high = self.high;
        self.front_low = self.low;
        self.high = 0;
        self.low = 0;
        Step::More
    }

    #[inline(always)]
    const fn end_group(&mut self) {
        self.high = self.high << 16 | self.low >> 48;
        self.low = self.low << 16 | self.number as u64;
        self.parts += 1;
        self.number = 0;
        self.digits = 0;
    }

    #[inline(always)]
    const fn end_v6(&mut self, had_digits: bool, last: u8) -> Step {
        if !had_digits && (last != b':' || self.gap != self.parts + 1) {
            // Only a `::` may end an address.
            return Step::Other;
        }
        if self.gap == 0 {
            if self.parts != Self::GROUPS {
                return Step::Other;
            }
        } else {
            if self.parts >= Self::GROUPS {
                return Step::Other;
            }
            self.fill_gap();
        }
        self.end_address();
        Step::More
    }

    /// What was in front of the `::` goes to the front.
    #[inline(always)]
    const fn fill_gap(&mut self) {
        let more = Self::GROUPS + 1 - self.gap;
        let (mut high, mut low) = (self.front_high, self.front_low);
        if more & 8 != 0 {
            (high, low) = (0, 0);
        }
        if more & 4 != 0 {
            (high, low) = (low, 0);
        }
        if more & 2 != 0 {
            (high, low) = (high << 32 | low >> 32, low << 32);
        }
        if more & 1 != 0 {
            (high, low) = (high << 16 | low >> 48, low << 16);
        }
        self.high |= high;
        self.low |= low;
    }

    #[inline(always)]
    const fn end_address(&mut self) {
        if self.field == 0 {
            self.source_high = self.high;
            self.source_low = self.low;
        }
        self.field += 1;
        self.high = 0;
        self.low = 0;
        self.parts = 0;
        self.gap = 0;
    }

    /// Of a line that is whole.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> Endpoint {
        let addr = Addr::from_v6([
            ((self.source_high >> 32) as u32).to_be(),
            (self.source_high as u32).to_be(),
            ((self.source_low >> 32) as u32).to_be(),
            (self.source_low as u32).to_be(),
        ]);
        Endpoint::new(addr, self.source_port as u16)
    }
}

#[inline(always)]
const fn hex(byte: u8) -> Option<u32> {
    match byte {
        b'0'..=b'9' => Some((byte - b'0') as u32),
        b'a'..=b'f' => Some((byte - b'a' + 10) as u32),
        b'A'..=b'F' => Some((byte - b'A' + 10) as u32),
        _ => None,
    }
}
