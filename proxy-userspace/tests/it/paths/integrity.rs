//! Every byte arrives, in order, from the first one on.

use std::thread;

use anyhow::{Context, Result};

use super::{CLIENT_PORT, MIB, Plan, Site, paths};
use crate::lab::payload::Payload;
use crate::lab::talk::{Side, Talk};

paths! {
    up_after_a_warm_up;
    down_after_a_warm_up;
    both_ways_after_a_warm_up;
    up_from_the_first_byte;
    down_from_the_first_byte;
    both_ways_from_the_first_byte;
    eight_at_once_from_the_first_byte;
    eight_at_once_after_a_warm_up;
    messages_of_every_size;
    turns_between_bulk_and_messages;
}

fn up_after_a_warm_up(plan: Plan<'_>) -> Result<()> {
    plan.start()?
        .warm(CLIENT_PORT)?
        .transfer(&[Side::Balancer], 64 * MIB)
}

fn down_after_a_warm_up(plan: Plan<'_>) -> Result<()> {
    plan.start()?
        .warm(CLIENT_PORT)?
        .transfer(&[Side::App], 64 * MIB)
}

fn both_ways_after_a_warm_up(plan: Plan<'_>) -> Result<()> {
    plan.start()?
        .warm(CLIENT_PORT)?
        .transfer(&Side::BOTH, 64 * MIB)
}

fn up_from_the_first_byte(plan: Plan<'_>) -> Result<()> {
    from_the_first_byte(plan, 1, &[Side::Balancer])
}

fn down_from_the_first_byte(plan: Plan<'_>) -> Result<()> {
    from_the_first_byte(plan, 1, &[Side::App])
}

fn both_ways_from_the_first_byte(plan: Plan<'_>) -> Result<()> {
    from_the_first_byte(plan, 1, &Side::BOTH)
}

fn eight_at_once_from_the_first_byte(plan: Plan<'_>) -> Result<()> {
    from_the_first_byte(plan, 8, &Side::BOTH)
}

/// Streams that begin with the header and don't pause.
fn from_the_first_byte(plan: Plan<'_>, count: u16, senders: &[Side]) -> Result<()> {
    let site = plan.start()?;
    let talks = open(&site, count)?;
    thread::scope(|scope| {
        let mut streams = Vec::new();
        for (talk, seed) in talks.iter().zip(1..) {
            for &side in senders {
                let payload = Payload::new(seed);
                streams.push(scope.spawn(move || talk.part(side, &payload, 0, 8 * MIB)));
            }
        }
        streams
            .into_iter()
            .try_for_each(|stream| stream.join().expect("no panic on the way"))
    })?;
    for talk in &talks {
        site.lab.wait_path(talk, site.path)?;
        talk.transfer(senders, MIB)?;
    }
    Ok(())
}

fn open(site: &Site, count: u16) -> Result<Vec<Talk>> {
    (CLIENT_PORT..)
        .take(count.into())
        .map(|port| site.open(port))
        .collect()
}

fn eight_at_once_after_a_warm_up(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talks = open(&site, 8)?;
    for talk in &mut talks {
        talk.warm_up(&site.lab, site.path)?;
    }
    thread::scope(|scope| {
        let transfers: Vec<_> = talks
            .iter()
            .map(|talk| scope.spawn(|| talk.transfer(&Side::BOTH, 8 * MIB)))
            .collect();
        transfers
            .into_iter()
            .try_for_each(|transfer| transfer.join().expect("no panic on the way"))
    })
}

fn messages_of_every_size(plan: Plan<'_>) -> Result<()> {
    const SIZES: [usize; 11] = [
        1, 2, 64, 1447, 1448, 1449, 4096, 16_384, 65_535, 65_536, 65_537,
    ];
    let site = plan.start()?;
    for (port, first) in (CLIENT_PORT..).zip(SIZES) {
        let mut talk = site.open(port)?;
        talk.ping_pong(16, first)?;
        for size in SIZES {
            talk.ping_pong(4, size)?;
        }
        talk.warm_up(&site.lab, site.path)?;
        talk.ping_pong(4, first)?;
    }
    Ok(())
}

/// Windows and timers of the one are not those of the other.
fn turns_between_bulk_and_messages(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let payload = &Payload::new(7);
    for turn in 0..8 {
        for side in Side::BOTH {
            talk.part(side, payload, turn * MIB, (turn + 1) * MIB)
                .with_context(|| format!("{side:?} sends in turn {turn}"))?;
        }
        talk.ping_pong(8, 100)?;
    }
    Ok(())
}
