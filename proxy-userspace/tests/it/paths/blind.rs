//! An attacker who knows all about a connection but its numbers, and sends as much as it takes to
//! guess them; and one who knows them, whose segments nobody may take for other reasons.

use anyhow::{Result, ensure};

use super::forged::Target;
use super::{Plan, paths};
use crate::lab::forge::{ACK, Checksum, FIN, PSH, RST, Segment};
use crate::lab::random::Random;
use crate::lab::scale::scaled;
use crate::lab::spray::{NOBODYS, Spray};

paths! {
    segments_without_an_acknowledgment;
    segments_with_any_acknowledgment;
    a_reset_at_every_60_000th_number;
    wrong_checksums;
    frames_for_somebody_else;
    an_end_ahead_with_any_acknowledgment;
}

/// Of each kind.
fn count() -> u32 {
    scaled(20_000, 10_000_000)
}

/// Data, ends and segments without any flag: no connection that stands takes those.
fn segments_without_an_acknowledgment(plan: Plan<'_>) -> Result<()> {
    guesses(plan, &[0, PSH, FIN, FIN | PSH], b"FORGED")
}

/// Ends and data, which a number must be right for, within a window of each other's.
fn segments_with_any_acknowledgment(plan: Plan<'_>) -> Result<()> {
    guesses(plan, &[ACK, ACK | PSH, ACK | FIN], b"")
}

/// In rounds of all `flags`, each segment with numbers of its own.
fn guesses(plan: Plan<'_>, flags: &[u8], payload: &[u8]) -> Result<()> {
    let target = Target::new(plan)?;
    let segment = target.segment()?;
    let mut random = Random::new(1);
    let segments = (0..count()).zip(flags.iter().cycle()).map(|(_, &flags)| {
        // The one connection that there is has windows of at most 6 MiB, and this isn't about luck.
        let ahead = random.word() % 0x8000_0000 + 0x4000_0000;
        Segment {
            number: segment.number.wrapping_add(ahead),
            acknowledged: random.word(),
            flags,
            payload,
            ..segment
        }
    });
    let sent = target.send(segments)?;
    assert_eq!(sent, u64::from(count()));
    target.goes_on()
}

/// All numbers there are, in steps of less than a window: one of them is in the window, and none is
/// right.
fn a_reset_at_every_60_000th_number(plan: Plan<'_>) -> Result<()> {
    const STEP: u32 = 60_000;
    let target = Target::new(plan)?;
    let segment = target.segment()?;
    for flags in [RST, RST | ACK] {
        let steps = (1..=u32::MAX / STEP).map(|step| Segment {
            number: segment.number.wrapping_add(step * STEP),
            flags,
            ..segment
        });
        let sent = target.send(steps)?;
        ensure!(sent > 70_000, "{sent}");
    }
    target.goes_on()
}

/// The numbers are right, and nothing else is.
fn wrong_checksums(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    let segment = Segment {
        checksum: Checksum::Wrong,
        ..target.segment()?
    };
    for flags in [RST, RST | ACK, FIN | ACK, ACK] {
        target.send([Segment { flags, ..segment }])?;
        target.send([Segment {
            flags,
            payload: b"FORGED",
            ..segment
        }])?;
    }
    target.goes_on()
}

/// On a device that hears them all the same, as under a packet capture.
fn frames_for_somebody_else(plan: Plan<'_>) -> Result<()> {
    let target = Target::new(plan)?;
    let lab = &target.site.lab;
    lab.host.ip("link set edge promisc on")?;
    let spray = Spray::onto(&lab.edge, "host", NOBODYS)?;
    let segment = target.segment()?;
    for flags in [RST, RST | ACK, FIN | ACK] {
        spray.send([Segment { flags, ..segment }])?;
    }
    target.goes_on()
}

/// In the window, where data will be: an end there is believed only with an acknowledgment of what
/// was really sent.
fn an_end_ahead_with_any_acknowledgment(plan: Plan<'_>) -> Result<()> {
    const QUARTER: u32 = 0x4000_0000;
    let target = Target::new(plan)?;
    let segment = target.segment()?;
    for ahead in [1, 100, 1000, 20_000] {
        // whatever the right one is, of these all are far from it but at most one
        target.send((0..4).map(|quarter| Segment {
            number: segment.number.wrapping_add(ahead),
            acknowledged: quarter * QUARTER + 7,
            flags: FIN | ACK,
            ..segment
        }))?;
    }
    target.goes_on()
}
