//! A path that loses packets, one router away from the host: nobody there knows which ones.

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::Lab;
use crate::lab::talk::Side;
use crate::steering::site::nft;

families! {
    from_the_first_packet;
    after_the_handover;
    of_single_segments;
}

/// Every fiftieth packet, of both directions together.
fn lose_some(lab: &Lab) -> Result<()> {
    let rules = "add table inet lossy
        add chain inet lossy forward { type filter hook forward priority 0 ; }
        add rule inet lossy forward meta l4proto tcp numgen inc mod 50 0 counter drop";
    nft(&lab.edge, rules)
}

/// Fails unless something was.
fn was_lost(lab: &Lab) -> Result<()> {
    let table = lab.edge.run("nft list table inet lossy")?;
    let mut words = table.split_whitespace();
    words.find(|word| *word == "packets");
    let count: u64 = words.next().context("a counter")?.parse()?;
    ensure!(count > 0, "nothing was lost");
    Ok(())
}

fn from_the_first_packet(family: Family) -> Result<()> {
    loses(family, lose_some)
}

/// Not dozens in a row, as what veth devices carry is; so there are holes, and SACK blocks.
fn of_single_segments(family: Family) -> Result<()> {
    loses(family, |lab| {
        single_segments(lab)?;
        lose_some(lab)
    })
}

fn single_segments(lab: &Lab) -> Result<()> {
    lab.client.ip("link set edge gso_max_segs 1")?;
    lab.host.ip("link set edge gso_max_segs 1")
}

fn loses(family: Family, set_up: fn(&Lab) -> Result<()>) -> Result<()> {
    let mut plan = Plan::far(family);
    plan.set_up = &set_up;
    arrives(&plan.start()?, || Ok(()))
}

fn after_the_handover(family: Family) -> Result<()> {
    let site = Plan::far(family).start()?;
    arrives(&site, || {
        single_segments(&site.lab)?;
        lose_some(&site.lab)
    })
}

/// What a handover loses is asked for again, so it arrives once, whatever happens to acknowledgments.
fn arrives(site: &Site, after_the_handover: impl FnOnce() -> Result<()>) -> Result<()> {
    let talk = site.warm(CLIENT_PORT)?;
    after_the_handover()?;
    talk.transfer(&Side::BOTH, 4 * MIB)?;
    was_lost(&site.lab)
}
