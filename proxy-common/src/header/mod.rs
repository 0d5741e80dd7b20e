//! The part of the PROXY protocol that the programs read: headers of TCP connections that are whole in
//! the first segment and name a client. Whatever else there may be, right or wrong, is the daemon's to
//! judge, so nothing here is an error: it is [`None`].
//!
//! Without pointers into the packet and without recursion; one byte at a time where the length is open.

/// The longest header that the programs read. Those of AWS NLB with a VPC endpoint, and of HAProxy with
/// all of its options but client certificates, fit.
pub const MAX_LEN: usize = 256;

pub mod crc32c;
pub mod v1;
pub mod v2;

#[cfg(test)]
mod tests;
