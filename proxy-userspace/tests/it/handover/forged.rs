//! Segments of somebody who knows the addresses and ports of a connection, but not its numbers.

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, Family, MIB, Site, families};
use crate::lab::addr::{HOST, TRUEPEER_PORT};
use crate::lab::forge::{ACK, RST, SYN, Segment};
use crate::lab::stream::expect_reset;
use crate::lab::talk::{Side, Talk};
use crate::lab::wire::Wire;

families! {
    a_reset_needs_the_number;
    data_needs_the_number;
    a_reset_after_forged_data_needs_the_number;
    a_syn_changes_nothing;
    an_acknowledgment_of_the_unsent_changes_nothing;
    the_right_number_does_reset;
}

/// Far outside of every window, ahead and behind, and where the window is, but not at its start.
const WRONG: [u32; 4] = [0x4000_0000, 0xc000_0000, 0xffff_0000, 1000];

/// A connection and the number that the balancer's next byte has.
struct Target {
    site: Site,
    talk: Talk,
    next: u32,
}

impl Target {
    fn new(family: Family) -> Result<Self> {
        let site = Site::new(family)?;
        let mut wire = Wire::tap(&site.lab.edge, TRUEPEER_PORT)?;
        let talk = site.warm(CLIENT_PORT)?;
        let source = talk.balancer.local_addr()?;
        let mut seen = wire.connections()?.iter();
        let next = seen
            .find(|one| one.source == source)
            .context("on the wire")?
            .next();
        Ok(Self { site, talk, next })
    }

    /// `ahead` of the right number, from the balancer's address.
    fn forge(&self, ahead: u32, flags: u8, payload: &[u8]) -> Result<()> {
        let segment = Segment {
            from: self.talk.balancer.local_addr()?,
            to: self.site.of(HOST, TRUEPEER_PORT),
            number: self.next.wrapping_add(ahead),
            acknowledged: 0x1234_5678,
            flags,
            payload,
        };
        segment.send(&self.site.lab.edge)
    }

    fn goes_on(mut self) -> Result<()> {
        self.talk.ping_pong(4, 1000)?;
        let shown = self.site.lab.shown_of(&self.talk)?;
        ensure!(shown.is_object(), "the daemon took the forger's word");
        self.talk.transfer(&Side::BOTH, MIB)
    }
}

fn a_reset_needs_the_number(family: Family) -> Result<()> {
    let target = Target::new(family)?;
    for ahead in WRONG {
        target.forge(ahead, RST, b"")?;
        target.forge(ahead, RST | ACK, b"")?;
    }
    target.goes_on()
}

/// In the window it would be data that came too early, which is anybody's guess to believe.
fn data_needs_the_number(family: Family) -> Result<()> {
    let target = Target::new(family)?;
    for ahead in &WRONG[..3] {
        target.forge(*ahead, ACK, b"FORGED")?;
    }
    target.goes_on()
}

/// Nobody makes a number right by sending up to it.
fn a_reset_after_forged_data_needs_the_number(family: Family) -> Result<()> {
    let target = Target::new(family)?;
    for ahead in &WRONG[..3] {
        target.forge(*ahead, ACK, b"FORGED")?;
        target.forge(ahead + 6, RST, b"")?;
        target.forge(ahead + 6, RST | ACK, b"")?;
    }
    target.goes_on()
}

fn a_syn_changes_nothing(family: Family) -> Result<()> {
    let target = Target::new(family)?;
    for ahead in WRONG {
        target.forge(ahead, SYN, b"")?;
    }
    target.goes_on()
}

fn an_acknowledgment_of_the_unsent_changes_nothing(family: Family) -> Result<()> {
    let target = Target::new(family)?;
    target.forge(0, ACK, b"")?;
    target.forge(0, ACK, b"FORGED")?;
    target.goes_on()
}

/// The others' control: forged segments do arrive.
fn the_right_number_does_reset(family: Family) -> Result<()> {
    let mut target = Target::new(family)?;
    target.forge(0, RST, b"")?;
    expect_reset(&mut target.talk.app)
}
