//! Segments of somebody who knows the addresses and ports of a connection, but not its numbers.

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, MIB, Plan, Site, paths};
use crate::lab::addr::TRUEPEER_PORT;
use crate::lab::forge::{ACK, RST, SYN, Segment};
use crate::lab::spray::Spray;
use crate::lab::stream::expect_reset;
use crate::lab::talk::{Side, Talk};
use crate::lab::wire::Wire;

paths! {
    a_reset_needs_the_number;
    data_needs_the_number;
    a_reset_after_forged_data_needs_the_number;
    a_syn_changes_nothing;
    an_acknowledgment_of_the_unsent_changes_nothing;
    the_right_number_does_reset;
}

/// Far outside of every window, ahead and behind, and where the window is, but not at its start.
const WRONG: [u32; 4] = [0x4000_0000, 0xc000_0000, 0xffff_0000, 1000];

/// A connection, and the number that the balancer's next byte has.
pub struct Target {
    pub spray: Spray,
    pub talk: Talk,
    pub site: Site,
    next: u32,
}

impl Target {
    pub fn new(plan: Plan<'_>) -> Result<Self> {
        let site = plan.start()?;
        let mut wire = Wire::tap(&site.lab.edge, TRUEPEER_PORT)?;
        let talk = site.warm(CLIENT_PORT)?;
        let source = talk.balancer.local_addr()?;
        let mut seen = wire.connections()?.iter();
        let next = seen
            .find(|one| one.source == source)
            .context("on the wire")?
            .next();
        let to = site.lab.host.mac("edge")?;
        Ok(Self {
            spray: Spray::onto(&site.lab.edge, "host", to)?,
            talk,
            site,
            next,
        })
    }

    /// One from the balancer's address, with the right number.
    pub fn segment(&self) -> Result<Segment<'static>> {
        Ok(Segment {
            number: self.next,
            acknowledged: 0x1234_5678,
            ..Segment::between(self.talk.balancer.local_addr()?, self.site.service())
        })
    }

    /// Onto the host's link; returns how many.
    pub fn send<'a>(&self, segments: impl IntoIterator<Item = Segment<'a>>) -> Result<u64> {
        self.spray.send(segments)
    }

    /// `ahead` of the right number.
    fn forge(&self, ahead: u32, flags: u8, payload: &[u8]) -> Result<()> {
        self.send([Segment {
            number: self.next.wrapping_add(ahead),
            flags,
            payload,
            ..self.segment()?
        }])?;
        Ok(())
    }

    /// Nobody has noticed anything.
    pub fn goes_on(mut self) -> Result<()> {
        self.talk.ping_pong(4, 1000)?;
        let shown = self.site.lab.shown_of(&self.talk)?;
        ensure!(shown.is_object(), "the daemon took the forger's word");
        self.site.app.saw_nobody()?;
        self.talk.transfer(&Side::BOTH, MIB)
    }
}

fn a_reset_needs_the_number(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    for ahead in WRONG {
        target.forge(ahead, RST, b"")?;
        target.forge(ahead, RST | ACK, b"")?;
    }
    target.goes_on()
}

/// In the window it would be data that came too early, which is anybody's guess to believe.
fn data_needs_the_number(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    for ahead in &WRONG[..3] {
        target.forge(*ahead, ACK, b"FORGED")?;
    }
    target.goes_on()
}

/// Nobody makes a number right by sending up to it.
fn a_reset_after_forged_data_needs_the_number(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    for ahead in &WRONG[..3] {
        target.forge(*ahead, ACK, b"FORGED")?;
        target.forge(ahead + 6, RST, b"")?;
        target.forge(ahead + 6, RST | ACK, b"")?;
    }
    target.goes_on()
}

fn a_syn_changes_nothing(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    for ahead in WRONG {
        target.forge(ahead, SYN, b"")?;
    }
    target.goes_on()
}

fn an_acknowledgment_of_the_unsent_changes_nothing(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    target.forge(0, ACK, b"")?;
    target.forge(0, ACK, b"FORGED")?;
    target.goes_on()
}

/// The others' control: forged segments do arrive.
fn the_right_number_does_reset(plan: Plan<'_>) -> Result<()> {
    let mut target = Target::new(plan)?;
    target.forge(0, RST, b"")?;
    expect_reset(&mut target.talk.app)
}
