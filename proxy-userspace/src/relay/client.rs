//! Which claimed client addresses are believed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::{Balancer, Client, Service};

/// Knows this host's own addresses.
pub trait OwnAddresses: Send + Sync {
    fn find(&self, address: &IpAddr) -> Option<Own>;
}

/// Knows whom an operator lets in.
pub trait Admission: Send + Sync {
    /// Whether a balancer may connect to a service. The programs ask as well, by what is served when a SYN comes.
    fn allows(&self, service: &Service, balancer: Balancer) -> bool;
    fn denies(&self, service: &Service, client: Client) -> bool;
}

/// What an address of this host's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Of one of its devices.
    Unicast,
    Broadcast,
    /// One that applications answer from.
    Steer,
}

/// Why a claimed address can't be a client's. An application would trust most of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Martian {
    Loopback,
    Unspecified,
    Multicast,
    Broadcast,
    /// An IPv6 link-local address means nothing without its link.
    LinkLocal,
    /// One of this host's own. It can be connected from, without being spoofed.
    Own,
    Steer,
    /// The target's, whose host would answer itself.
    Target,
    /// Nothing can be answered to port 0.
    NoPort,
}

/// One list for names and match, so that a variant can't be left out of either.
macro_rules! names {
    ($($variant:ident => $name:literal,)*) => {
        impl Martian {
            #[cfg(test)]
            pub const NAMES: &[&str] = &[$($name),*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

names! {
    Loopback => "client_loopback",
    Unspecified => "client_unspecified",
    Multicast => "client_multicast",
    Broadcast => "client_broadcast",
    LinkLocal => "client_link_local",
    Own => "client_own_address",
    Steer => "client_steer_address",
    Target => "client_target_address",
    NoPort => "client_no_port",
}

impl fmt::Display for Martian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::LinkLocal => "a link-local address",
            Self::Own => "one of this host's own addresses",
            Self::Steer => "an address that truepeer steers replies by",
            Self::Target => "the target's own address",
            Self::NoPort => "without a port",
        })
    }
}

/// `address` is canonical: IPv4-mapped IPv6 is IPv4 here.
pub fn check(address: IpAddr, own: &dyn OwnAddresses) -> Result<(), Martian> {
    let martian = if address.is_loopback() {
        Martian::Loopback
    } else if is_unspecified(address) {
        Martian::Unspecified
    } else if address.is_multicast() {
        Martian::Multicast
    } else if address == Ipv4Addr::BROADCAST {
        Martian::Broadcast
    } else if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        Martian::LinkLocal
    } else {
        match own.find(&address) {
            None => return Ok(()),
            Some(Own::Unicast) => Martian::Own,
            Some(Own::Broadcast) => Martian::Broadcast,
            Some(Own::Steer) => Martian::Steer,
        }
    };
    Err(martian)
}

/// All of 0.0.0.0/8 means "this host" to the kernel, which drops packets from there.
fn is_unspecified(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets().starts_with(&[0]),
        IpAddr::V6(v6) => v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host;

    impl OwnAddresses for Host {
        fn find(&self, address: &IpAddr) -> Option<Own> {
            match address.to_string().as_str() {
                "10.0.0.5" => Some(Own::Unicast),
                "10.0.0.255" => Some(Own::Broadcast),
                "169.254.80.80" => Some(Own::Steer),
                _ => None,
            }
        }
    }

    #[test]
    fn martians_are_told_from_clients() {
        for (address, expected) in [
            ("203.0.113.9", Ok(())),
            ("240.0.0.1", Ok(())),
            ("2001:db8::9", Ok(())),
            ("127.0.0.1", Err(Martian::Loopback)),
            ("127.255.0.1", Err(Martian::Loopback)),
            ("::1", Err(Martian::Loopback)),
            ("0.0.0.0", Err(Martian::Unspecified)),
            ("0.1.2.3", Err(Martian::Unspecified)),
            ("::", Err(Martian::Unspecified)),
            ("224.0.0.1", Err(Martian::Multicast)),
            ("ff02::1", Err(Martian::Multicast)),
            ("255.255.255.255", Err(Martian::Broadcast)),
            ("fe80::1", Err(Martian::LinkLocal)),
            ("10.0.0.5", Err(Martian::Own)),
            ("10.0.0.255", Err(Martian::Broadcast)),
            ("169.254.80.80", Err(Martian::Steer)),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(check(address, &Host), expected, "{address}");
        }
    }
}
