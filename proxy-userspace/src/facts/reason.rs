//! Why a service's connections go by the daemon, in words and as a stable name.

use std::{fmt, net::SocketAddr};

/// What keeps a service from being direct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    SwitchedOff,
    NoKfunc,
    NoSyncookies,
    StrictConntrack,
    StrictLo,
    /// The first rule beyond the kernel's own.
    PolicyRouting(String),
    /// The first policy that a packet of the service may be meant by.
    Ipsec(String),
    Vrf(String),
    /// The rule, with its chain.
    NetdevIngress(String),
    FirewallRule(String),
    /// A chain that changes addresses, of whatever packets.
    Nat(String),
    FirewallUnreadable(String),
    NoTarget,
    TargetBeyondHost(SocketAddr),
    /// The kernel can't make such a listener a connection without its handshake.
    MultipathApp(SocketAddr),
    /// An application that listens by a device alone. What comes straight from the balancer may come by
    /// another one.
    BoundApp(SocketAddr, String),
    NoForwarding(String),
}

impl Reason {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched_off",
            Self::NoKfunc => "no_kfunc",
            Self::NoSyncookies => "no_syncookies",
            Self::StrictConntrack => "strict_conntrack",
            Self::StrictLo => "strict_lo",
            Self::PolicyRouting(_) => "policy_routing",
            Self::Ipsec(_) => "ipsec",
            Self::Vrf(_) => "vrf",
            Self::NetdevIngress(_) => "netdev_ingress",
            Self::FirewallRule(_) => "firewall_rule",
            Self::Nat(_) => "nat",
            Self::FirewallUnreadable(_) => "firewall_unreadable",
            Self::NoTarget => "no_target",
            Self::TargetBeyondHost(_) => "target_beyond_host",
            Self::MultipathApp(_) => "multipath_app",
            Self::BoundApp(..) => "bound_app",
            Self::NoForwarding(_) => "no_forwarding",
        }
    }

    /// What makes it go away, where something does.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::SwitchedOff => "leave --direct off out".into(),
            Self::NoSyncookies => "sysctl -w net.ipv4.tcp_syncookies=1".into(),
            Self::StrictConntrack => "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1".into(),
            Self::StrictLo => "sysctl -w net.ipv4.conf.all.rp_filter=2".into(),
            Self::NoForwarding(device) => {
                format!("let truepeer write net.ipv6.conf.{device}.forwarding")
            }
            Self::NoKfunc => {
                "use Linux 6.12 or later, with CONFIG_SYN_COOKIES and CONFIG_DEBUG_INFO_BTF".into()
            }
            Self::FirewallUnreadable(_) => "install nft, and move rules to it".into(),
            Self::MultipathApp(_) => {
                "have the application listen with plain TCP (in Go: GODEBUG=multipathtcp=0)".into()
            }
            Self::BoundApp(..) => {
                "have the application listen without SO_BINDTODEVICE (in systemd's units: BindToDevice=)"
                    .into()
            }
            Self::PolicyRouting(_)
            | Self::Ipsec(_)
            | Self::Vrf(_)
            | Self::NetdevIngress(_)
            | Self::FirewallRule(_)
            | Self::Nat(_)
            | Self::NoTarget
            | Self::TargetBeyondHost(_) => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SwitchedOff => f.write_str("--direct off"),
            Self::NoKfunc => f.write_str("this kernel has no bpf_sk_assign_tcp_reqsk"),
            Self::NoSyncookies => f.write_str("net.ipv4.tcp_syncookies is 0"),
            Self::StrictConntrack => f.write_str("nf_conntrack_tcp_loose is 0"),
            Self::StrictLo => f.write_str("rp_filter is strict on lo"),
            Self::PolicyRouting(rule) => write!(f, "the host routes by rules ({rule})"),
            Self::Ipsec(policy) => write!(f, "an IPsec policy is about it ({policy})"),
            Self::Vrf(device) => write!(f, "the host has a VRF ({device})"),
            Self::NetdevIngress(rule) => write!(f, "an ingress rule is about it ({rule})"),
            Self::Nat(chain) => {
                write!(f, "the firewall's chain {chain} changes addresses")
            }
            Self::FirewallRule(rule) => {
                write!(f, "a firewall rule changes what is on its way ({rule})")
            }
            Self::FirewallUnreadable(why) => write!(f, "the firewall can't be read ({why})"),
            Self::NoTarget => f.write_str("it has no target of this family"),
            Self::TargetBeyondHost(target) => write!(f, "target {target} is not on this host"),
            Self::MultipathApp(target) => write!(f, "target {target} listens with Multipath TCP"),
            Self::BoundApp(target, device) => {
                write!(f, "target {target} listens by {device} alone")
            }
            Self::NoForwarding(device) => write!(f, "forwarding is off on {device}"),
        }
    }
}
