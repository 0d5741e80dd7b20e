//! Ways to the balancer that take less in one piece than the host's own link.

use anyhow::Result;

use super::rows;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::datagram::Framing;
use crate::steering::site::{ip, nft};

rows! {
    a_route_s_mtu;
}

/// What is longer than the route says gets lost on its way unless it comes in pieces.
fn a_route_s_mtu(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        ip(
            &lab.host,
            "-4 route add 198.51.100.1/32 dev edge mtu 1300
             -6 route add 2001:db8:e::1/128 dev edge mtu 1300",
        )?;
        nft(
            &lab.edge,
            "add table inet narrow
             add chain inet narrow first { type filter hook prerouting priority -450; }
             add rule inet narrow first meta length > 1300 drop",
        )
    };
    for framing in [Framing::V2, Framing::Spp] {
        let site = Plan {
            framing,
            set_up: &set_up,
            ..plan
        }
        .start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        for part in [1000, 1390] {
            let header = site.header(1000);
            balancer.send(&[&header[..], &vec![7; part]].concat())?;
            site.app_got(1000, &vec![7; part])?;
            site.answered(&balancer, 1000, &vec![7; part])?;
        }
        site.leaks.saw_none()?;
    }
    Ok(())
}
