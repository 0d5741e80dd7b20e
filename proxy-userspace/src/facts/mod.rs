//! Which path a service's connections take, and why: by what the host is like.
//!
//! A service is direct where nothing speaks against it. What speaks against it is a [`Reason`], for
//! people and programs to read. All of it is read anew when the host changes: see [`watch()`].

mod host;
mod listeners;
mod netlink;
mod nftables;
mod path;
mod reason;
mod sysctls;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use host::{IpsecPolicy, RoutingRule};
pub use listeners::Bound;
pub use nftables::{Against, LateBan, Packets, Reached, Ruleset, Sources};
pub use path::Unseen;
pub use reason::Reason;
pub use sysctls::{Conntrack, Sysctls, is_strict_at};
pub use watch::{bound, firewall, read, watch};

/// Of a connection: its balancer, its client and its application have one, or it isn't direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn has(self, address: &IpAddr) -> bool {
        Self::of(address) == self
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What the host is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As `--direct` was given.
    pub wanted: bool,
    /// Whether the kernel has `bpf_sk_assign_tcp_reqsk`.
    pub kfunc: bool,
    /// Truepeer's own, the host's end of the veth.
    pub device: String,
    pub sysctls: Sysctls,
    /// Beyond the kernel's own.
    pub routing_rules: Vec<RoutingRule>,
    pub ipsec: Vec<IpsecPolicy>,
    /// Names of the VRF devices.
    pub vrfs: Vec<String>,
    pub firewall: Firewall,
    /// The namespace's own unicast addresses: nobody can be spoofed from there.
    pub addresses: BTreeSet<IpAddr>,
    /// What is its own by a route alone.
    pub own_nets: BTreeSet<IpNet>,
    /// Those of the targets' addresses that are this host's, be it by a route alone.
    pub here: BTreeSet<IpAddr>,
    /// Targets that a listener with Multipath TCP hears, or has been the last to hear.
    pub multipath: BTreeSet<SocketAddr>,
    /// The same for listeners that are bound to a device.
    pub bound: Bound,
}

/// What is known of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firewall {
    Known(Arc<Ruleset>),
    /// There are rules, and this is why they can't be read.
    Unreadable(String),
}

impl Firewall {
    fn known(ruleset: Ruleset) -> Self {
        Self::Known(Arc::new(ruleset))
    }
}
