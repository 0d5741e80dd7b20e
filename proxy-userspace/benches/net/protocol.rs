//! What a site's balancer and contender speak.

use crate::kind::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp(Framing),
}

/// What balancers put in front of each datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    V2,
    /// In front of each reply as well.
    Spp,
}

impl Framing {
    pub const ALL: [Self; 2] = [Self::V2, Self::Spp];

    /// Of `truepeer run`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Spp => "spp",
        }
    }
}

impl Kind {
    pub fn speaks(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => true,
            Protocol::Udp(Framing::V2) => !matches!(self, Self::Haproxy | Self::Nginx),
            Protocol::Udp(Framing::Spp) => !self.is_peer(),
        }
    }
}
