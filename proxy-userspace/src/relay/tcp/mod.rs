//! A TCP connection's life: header, client, upstream, both halves to their end.
//!
//! A worker is one thread in the spoof namespace and shares nothing on its way with the others.

mod accept;
mod connection;
mod direction;
mod pump;
mod read_header;
mod splice;
#[cfg(test)]
mod tests;
mod upstream;

pub use accept::{Change, Listeners, Listening};
pub use upstream::{HostSocketRequest, HostSockets, Neighbours, Spoofed};
