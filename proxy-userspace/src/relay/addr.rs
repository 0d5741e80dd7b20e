//! Addresses that must not be mistaken for each other.

use std::{fmt, net::SocketAddr};

macro_rules! address {
    ($($(#[$doc:meta])+ $name:ident)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

address! {
    /// The socket address of the one who connected to us and sent the header.
    Balancer
    /// The address that the application shall see.
    Client
    /// Where the application listens.
    Target
}

impl Balancer {
    /// Whether it speaks for itself, as with LOCAL and UNKNOWN.
    pub fn is(self, client: Client) -> bool {
        self.0 == client.0
    }
}

/// An IPv4 address in IPv6 clothes is an IPv4 address to everybody else.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
