//! Datagrams in pieces, some of which get lost: nobody tells the client so, who knows nothing of the host.

use anyhow::Result;

use super::clients::counted;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::addr::{HOST, Pair};
use crate::lab::datagram::Framing;
use crate::lab::path::Path;
use crate::steering::site::{nft, sysctl};

#[test]
fn half_of_one_that_no_device_takes_in_one_piece_direct() -> Result<()> {
    half_of_one(Path::Direct)
}

#[test]
fn half_of_one_that_no_device_takes_in_one_piece_daemon() -> Result<()> {
    half_of_one(Path::Daemon)
}

/// A second later the stack says that it has waited in vain.
fn half_of_one(path: Path) -> Result<()> {
    const LONGEST: usize = 65_527;
    let set_up = |lab: &Lab| {
        sysctl(&lab.host, "ipv6/ip6frag_time", "1")?;
        nft(
            &lab.host,
            "add table inet f
             add chain inet f input { type filter hook input priority 0 ; }
             add rule inet f input iif lo frag frag-off != 0 drop",
        )
    };
    let site = Plan {
        framing: Framing::V2First,
        set_up: &set_up,
        ..Plan::new(path, Pair::v6)
    }
    .app_at(HOST)
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    balancer.send(&vec![7; LONGEST])?;
    counted(&site, "datagram_icmp_lost", 1)?;
    site.exchange_with(&balancer, &[], 1000, b"again")?;
    site.end()
}
