//! A balancer one router away, on a path that loses packets or has room for small ones only.

use anyhow::{Context, Result};

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::Lab;
use crate::lab::addr::OTHER_CLIENT;
use crate::lab::talk::Side;
use crate::steering::site::nft;

families! {
    loss_from_the_first_packet;
    loss_after_the_handover;
    loss_of_single_segments;
    a_smaller_mtu_at_the_balancer;
    a_smaller_mtu_on_the_path;
    an_mtu_that_shrinks_on_the_path;
    an_mtu_that_shrinks_at_the_balancer;
}

/// The edge is its router.
fn far(family: Family, set_up: &dyn Fn(&Lab) -> Result<()>) -> Result<Site> {
    let mut plan = Plan::new(family);
    plan.balancer = OTHER_CLIENT;
    plan.set_up = set_up;
    plan.start()
}

/// Every fiftieth packet, of both directions together: the same in each run, as far as the
/// packets are.
fn lose_some(lab: &Lab) -> Result<()> {
    let rules = "add table inet lossy
        add chain inet lossy forward { type filter hook forward priority 0 ; }
        add rule inet lossy forward meta l4proto tcp numgen inc mod 50 0 drop";
    nft(&lab.edge, rules)
}

fn loss_from_the_first_packet(family: Family) -> Result<()> {
    let site = far(family, &lose_some)?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 8 * MIB)
}

fn loss_after_the_handover(family: Family) -> Result<()> {
    let site = far(family, &|_| Ok(()))?;
    let talk = site.warm(CLIENT_PORT)?;
    lose_some(&site.lab)?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}

/// Not dozens in a row, as what veth devices carry is; so there are holes, and SACK blocks.
fn loss_of_single_segments(family: Family) -> Result<()> {
    let site = far(family, &|lab| {
        lab.client.ip("link set edge gso_max_segs 1")?;
        lab.host.ip("link set edge gso_max_segs 1")?;
        lose_some(lab)
    })?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 2 * MIB)
}

/// Only the balancer's own device says so: the segments that it asks for are smaller than the
/// app's leg has them.
fn a_smaller_mtu_at_the_balancer(family: Family) -> Result<()> {
    let mut plan = Plan::new(family);
    plan.set_up = &|lab| lab.edge.ip("link set host mtu 1280");
    let site = plan.start()?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 8 * MIB)
}

/// Neither end knows before the router says so.
fn narrow(lab: &Lab) -> Result<()> {
    lab.edge
        .ip("link set client mtu 1280")
        .context("narrowing the path")
}

fn a_smaller_mtu_on_the_path(family: Family) -> Result<()> {
    let site = far(family, &narrow)?;
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 8 * MIB)
}

fn an_mtu_that_shrinks_on_the_path(family: Family) -> Result<()> {
    let site = far(family, &|_| Ok(()))?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(4, 20_000)?;
    narrow(&site.lab)?;
    talk.ping_pong(4, 20_000)?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}

fn an_mtu_that_shrinks_at_the_balancer(family: Family) -> Result<()> {
    let site = far(family, &|_| Ok(()))?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(4, 20_000)?;
    narrow(&site.lab)?;
    site.lab.client.ip("link set edge mtu 1280")?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}
