//! A path that loses packets, one router away from the host: nobody there knows which ones.

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, MIB, Plan, Site, paths};
use crate::lab::Lab;
use crate::lab::lossy::{Faults, Nature};
use crate::lab::talk::Side;
use crate::lab::tuntap::Layer;
use crate::steering::site::nft;

paths! {
    from_the_first_packet;
    in_mid_connection;
    with_doubles_and_late_ones;
}

/// Every fiftieth packet, of both directions together; often dozens of segments in one.
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

fn from_the_first_packet(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        set_up: &lose_some,
        ..plan.far()
    }
    .start()?;
    arrives(&site)?;
    was_lost(&site.lab)
}

fn in_mid_connection(plan: Plan<'_>) -> Result<()> {
    let site = plan.far().start()?;
    let talk = site.warm(CLIENT_PORT)?;
    lose_some(&site.lab)?;
    talk.transfer(&Side::BOTH, 4 * MIB)?;
    was_lost(&site.lab)
}

/// Segment by segment, so there are holes, SACK blocks, and D-SACK.
fn with_doubles_and_late_ones(plan: Plan<'_>) -> Result<()> {
    let faults = Faults {
        lost: 20,
        doubled: 20,
        late: 20,
    };
    let wire = Nature {
        faults,
        ..Nature::sound(Layer::Tap)
    };
    let site = Plan {
        wire: Some(wire),
        ..plan.far()
    }
    .start()?;
    arrives(&site)?;
    let counted = site.wire.as_ref().context("a wire")?.counted();
    let least = counted.lost.min(counted.doubled).min(counted.late);
    ensure!(least > 0, "{counted:?}");
    Ok(())
}

/// What is lost is asked for again, so it arrives once, whatever happens to acknowledgments.
fn arrives(site: &Site) -> Result<()> {
    site.warm(CLIENT_PORT)?.transfer(&Side::BOTH, 4 * MIB)
}
