//! The addresses of the lab, by role.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IPv4 and IPv6 of the same thing.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Pair {
    pub const fn new(v4: [u8; 4], v6: [u16; 8]) -> Self {
        let [a, b, c, d] = v4;
        let [e, f, g, h, i, j, k, l] = v6;
        Self {
            v4: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            v6: IpAddr::V6(Ipv6Addr::new(e, f, g, h, i, j, k, l)),
        }
    }

    pub const fn v4(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4, port)
    }

    pub const fn v6(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6, port)
    }

    pub const fn both(self, port: u16) -> [SocketAddr; 2] {
        [self.v4(port), self.v6(port)]
    }

    /// The address of the same family as `other`.
    pub const fn like(self, other: SocketAddr, port: u16) -> SocketAddr {
        if other.is_ipv4() {
            self.v4(port)
        } else {
            self.v6(port)
        }
    }
}

/// The client that most tests speak of.
pub const CLIENT: Pair = Pair::new([203, 0, 113, 9], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 9]);
pub const OTHER_CLIENT: Pair = Pair::new([203, 0, 113, 10], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10]);
/// Beyond the edge as well, but no balancer speaks for it.
pub const FAR: Pair = Pair::new([203, 0, 113, 11], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x11]);
/// What clients connect to.
pub const FRONT: Pair = Pair::new([203, 0, 113, 1], [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1]);
/// The balancer as the host sees it.
pub const BALANCER: Pair = Pair::new([198, 51, 100, 1], [0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 1]);
/// A neighbour of the balancer that no allowlist has unless a test says so.
pub const NEIGHBOUR: Pair = Pair::new([198, 51, 100, 7], [0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 7]);
pub const HOST: Pair = Pair::new([198, 51, 100, 2], [0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 2]);
/// Nobody's, unless a test gives it to the host.
pub const LATER: Pair = Pair::new([192, 0, 2, 99], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x99]);
pub const LOOPBACK: Pair = Pair::new([127, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]);
pub const WILDCARD: Pair = Pair::new([0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]);

/// Where connections and datagrams for an app on loopback go.
pub const STEER: Pair = Pair::new([169, 254, 80, 80], [0xfd74, 0x7275, 0x6570, 0, 0, 0, 0, 1]);

/// Where tests have their containers.
pub const CONTAINERS: [&str; 2] = ["10.80.0.0/24", "fd80::/64"];

/// Where floods have their clients, which are at no place at all.
pub const CROWD: [&str; 2] = ["198.18.0.0/15", "2001:db8:18::/48"];

/// Every namespace is empty, so that everything can have the port it likes.
pub const FRONT_PORT: u16 = 443;
pub const TRUEPEER_PORT: u16 = 7000;
pub const APP_PORT: u16 = 8080;
