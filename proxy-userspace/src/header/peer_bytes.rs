//! How what a peer sent is shown: escaped and bounded.

use std::fmt::{self, Write};

use serde::{Serialize, Serializer};

/// Bytes that a peer chose. Every way of showing them (`Display`, `Debug`, `Serialize`) escapes
/// them and is bounded, so they can't forge log lines or fill a log (SEC-3, SEC-6).
///
/// Printable ASCII is kept; the backslash and everything else becomes `\xNN`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerBytes<'a>(&'a [u8]);

impl<'a> PeerBytes<'a> {
    /// The longest host name; a certificate needs more, but nobody reads one in a log.
    pub const MAX_SHOWN: usize = 255;

    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes as sent, for comparison and forwarding; not for a terminal.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for PeerBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take(Self::MAX_SHOWN) {
            match byte {
                b'\\' => f.write_str(r"\x5c")?,
                b' '..=b'~' => f.write_char(char::from(byte))?,
                _ => write!(f, r"\x{byte:02x}")?,
            }
        }
        match self.0.len().saturating_sub(Self::MAX_SHOWN) {
            0 => Ok(()),
            hidden => write!(f, "... ({hidden} more bytes)"),
        }
    }
}

impl fmt::Debug for PeerBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for PeerBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
