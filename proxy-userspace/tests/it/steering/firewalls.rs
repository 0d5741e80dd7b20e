//! Firewalls that know nothing of us.

use anyhow::Result;

use super::site::nft;
use super::{holds, rows};
use crate::lab::Lab;

rows! {
    /// The firewall that most hosts have.
    input_drop: |lab| nft(&lab.host, INPUT_DROP)
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    input_drop_without_conntrack: |lab| nft(&lab.host, STATELESS)
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    /// firewalld has this on for IPv6 from the start.
    strict_reverse_path: |lab| nft(&lab.host, REVERSE_PATH)
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    forward_drop: |lab| nft(&lab.host, FORWARD_DROP) => loopback_v4 address_v4 loopback_v6 address_v6;
}

/// Hosts that change addresses on the way.
mod by_the_daemon {
    use super::super::falls_back as holds;
    use super::*;

    rows! {
        masquerade: |lab| nft(&lab.host, MASQUERADE)
            => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
        all_of_them: all_of_them
            => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    }
}

/// Without icmpv6 a host doesn't learn its router's address, whatever it runs.
const INPUT_DROP: &str = "add table inet guard
    add chain inet guard input { type filter hook input priority 0 ; policy drop ; }
    add rule inet guard input ct state established,related accept
    add rule inet guard input ct state invalid drop
    add rule inet guard input iif lo accept
    add rule inet guard input meta l4proto ipv6-icmp accept
    add rule inet guard input tcp dport 7000 accept
    add rule inet guard input udp dport 7000 accept";

/// With icmpv6 for the same reason.
pub const STATELESS: &str = "add table inet bare
    add chain inet bare input { type filter hook input priority 0 ; policy drop ; }
    add rule inet bare input iif lo accept
    add rule inet bare input meta l4proto ipv6-icmp accept
    add rule inet bare input tcp dport 7000 accept
    add rule inet bare input udp dport 7000 accept";

pub const MASQUERADE: &str = "add table inet hide
    add chain inet hide post { type nat hook postrouting priority 100 ; }
    add rule inet hide post oifname edge masquerade";

const REVERSE_PATH: &str = "add table inet path
    add chain inet path pre { type filter hook prerouting priority -290 ; }
    add rule inet path pre icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    add rule inet path pre fib saddr . mark . iif oif missing drop";

const FORWARD_DROP: &str = "add table inet through
    add chain inet through forward { type filter hook forward priority 0 ; policy drop ; }";

fn all_of_them(lab: &Lab) -> Result<()> {
    [INPUT_DROP, MASQUERADE, REVERSE_PATH, FORWARD_DROP]
        .into_iter()
        .try_for_each(|commands| nft(&lab.host, commands))
}
