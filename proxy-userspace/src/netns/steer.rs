//! Steer addresses: those that upstream connections to applications on this host go to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use proxy_common::Steer;

/// Which IP families this host has.
#[derive(Clone, Copy, Debug)]
pub struct Families {
    pub v6: bool,
}

/// A network of steer addresses, counted up from its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteerNet {
    first: IpAddr,
    net: IpNet,
}

impl SteerNet {
    /// Longer prefixes would leave no address, shorter ones don't fit the programs' comparison.
    const HOST_BITS: std::ops::RangeInclusive<u8> = 0..=16;

    /// The `n`th address, if the network is that large.
    pub fn address(&self, n: u16) -> Option<IpAddr> {
        let address = match self.first {
            IpAddr::V4(first) => IpAddr::V4(u32::from(first).checked_add(n.into())?.into()),
            IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(n.into())?.into()),
        };
        self.net.contains(&address).then_some(address)
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        self.net.contains(address)
    }

    /// All of its addresses.
    pub fn net(&self) -> IpNet {
        self.net
    }

    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// The form that the programs compare with.
    pub fn for_programs(&self) -> Steer {
        let host_bits = self.net.max_prefix_len() - self.net.prefix_len();
        Steer::new(self.net.network().into(), host_bits.into())
    }
}

impl FromStr for SteerNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: IpNet = text
            .parse()
            .map_err(|_| "write an address and a prefix length, as in 169.254.80.80/28")?;
        let host_bits = net.max_prefix_len() - net.prefix_len();
        if !Self::HOST_BITS.contains(&host_bits) {
            return Err("the network is too large: leave at most 16 bits for addresses".into());
        }
        if ![net.addr(), net.broadcast()].into_iter().all(is_assignable) {
            return Err(
                "no device can have such an address: choose a private network, as in \
                 169.254.80.80/28 or fd74:7275:6570::1/112"
                    .into(),
            );
        }
        Ok(Self {
            first: net.addr(),
            net,
        })
    }
}

impl fmt::Display for SteerNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net.fmt(f)
    }
}

fn is_assignable(address: IpAddr) -> bool {
    let is_mapped = address.to_canonical() != address;
    is_unicast(address) && !address.is_loopback() && !is_mapped
}

/// Whether an application can have it. A link-local address of IPv6 means nothing without its link.
pub fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_multicast() && v4.octets()[0] != 0,
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local(),
    }
}

/// One network per family; none while nobody chose one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerNets {
    pub v4: Option<SteerNet>,
    pub v6: Option<SteerNet>,
}

impl SteerNets {
    /// Link-local and unique-local addresses that nobody else is likely to use. Each device
    /// number has networks of its own, so that instances don't take each other's replies.
    pub(super) fn or_default(self, device: u16) -> Self {
        Self {
            v4: self.v4.or_else(|| net(v4(device).into(), 28)),
            v6: self.v6.or_else(|| net(v6(device).into(), 112)),
        }
    }

    /// Those that were chosen, or the first instance's.
    pub fn or_first(self) -> Self {
        self.or_default(0)
    }

    pub fn of(&self, family: &IpAddr) -> Option<&SteerNet> {
        match family {
            IpAddr::V4(_) => self.v4.as_ref(),
            IpAddr::V6(_) => self.v6.as_ref(),
        }
    }

    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        [self.v4, self.v6]
            .into_iter()
            .flatten()
            .map(|net| net.net())
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        self.of(address).is_some_and(|net| net.contains(address))
    }
}

/// More than a host can have instances; their default IPv4 networks end far below 169.254.169.254,
/// where clouds have something of theirs.
pub(super) const DEVICES: std::ops::Range<u16> = 0..1024;

fn v4(device: u16) -> Ipv4Addr {
    const FIRST: Ipv4Addr = Ipv4Addr::new(169, 254, 80, 80);
    const SIZE: u32 = 16;
    Ipv4Addr::from(u32::from(FIRST) + SIZE * u32::from(device))
}

fn v6(device: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd74, 0x7275, 0x6570, 0, 0, 0, device, 1)
}

fn net(first: IpAddr, prefix_len: u8) -> Option<SteerNet> {
    let net = IpNet::new(first, prefix_len).ok()?;
    Some(SteerNet { first, net })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_disjoint_networks() {
        let nets: Vec<_> = DEVICES
            .map(|n| SteerNets::default().or_default(n))
            .collect();
        for (n, one) in nets.iter().enumerate() {
            for other in &nets[n + 1..] {
                for first in [one.v4, one.v6].iter().flatten() {
                    assert!(!other.contains(&first.address(0).expect("a first address")));
                }
            }
        }
    }

    #[test]
    fn addresses_end_with_the_network() {
        let net: SteerNet = "169.254.80.80/28".parse().expect("a network");
        assert_eq!(net.address(15), Some("169.254.80.95".parse().expect("ip")));
        assert_eq!(net.address(16), None);
        assert!("10.0.0.0/8".parse::<SteerNet>().is_err());
        assert!("10.0.0.1".parse::<SteerNet>().is_err());
        for nobodys in [
            "127.0.0.0/28",
            "224.0.0.0/28",
            "fe80::/112",
            "ff02::/112",
            "::1/128",
            "255.255.255.240/28",
        ] {
            assert!(nobodys.parse::<SteerNet>().is_err(), "{nobodys}");
        }
    }
}
