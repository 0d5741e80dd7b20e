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
    /// In front of the first one of a socket alone, which is one client's then.
    V2First,
    /// In front of each reply as well.
    Spp,
}

impl Protocol {
    /// What a row is called that others have as well.
    pub fn row(self, what: &str) -> String {
        match self {
            Self::Tcp => what.to_owned(),
            Self::Udp(Framing::V2) => format!("udp-{what}"),
            Self::Udp(framing) => format!("udp-{}-{what}", framing.name()),
        }
    }
}

impl Framing {
    pub const ALL: [Self; 3] = [Self::V2, Self::V2First, Self::Spp];
    /// What flows with v2-first hold is their own; what comes behind the first datagram is v2's at its fastest.
    pub const LOADED: [Self; 2] = [Self::V2, Self::Spp];

    /// Of `truepeer run`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2First => "v2-first",
            Self::Spp => "spp",
        }
    }
}

impl Kind {
    pub fn speaks(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => true,
            Protocol::Udp(Framing::V2) => !matches!(self, Self::Haproxy | Self::Nginx),
            Protocol::Udp(Framing::V2First | Framing::Spp) => !self.is_peer(),
        }
    }
}
