//! Every byte arrives, in order, before the handover, after it and in the middle of it.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, Family, MIB, Site, families};
use crate::lab::payload::Payload;
use crate::lab::talk::{Side, Talk};

families! {
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

fn up_after_a_warm_up(family: Family) -> Result<()> {
    Site::new(family)?
        .warm(CLIENT_PORT)?
        .transfer(&[Side::Balancer], 64 * MIB)
}

fn down_after_a_warm_up(family: Family) -> Result<()> {
    Site::new(family)?
        .warm(CLIENT_PORT)?
        .transfer(&[Side::App], 64 * MIB)
}

fn both_ways_after_a_warm_up(family: Family) -> Result<()> {
    Site::new(family)?
        .warm(CLIENT_PORT)?
        .transfer(&Side::BOTH, 64 * MIB)
}

fn up_from_the_first_byte(family: Family) -> Result<()> {
    from_the_first_byte(family, 1, &[Side::Balancer])
}

fn down_from_the_first_byte(family: Family) -> Result<()> {
    from_the_first_byte(family, 1, &[Side::App])
}

fn both_ways_from_the_first_byte(family: Family) -> Result<()> {
    from_the_first_byte(family, 1, &Side::BOTH)
}

fn eight_at_once_from_the_first_byte(family: Family) -> Result<()> {
    from_the_first_byte(family, 8, &Side::BOTH)
}

/// Streams that don't pause before all of them are handed over.
fn from_the_first_byte(family: Family, count: u16, senders: &[Side]) -> Result<()> {
    let site = Site::new(family)?;
    let talks = open(&site, count)?;
    let going = &AtomicBool::new(true);
    thread::scope(|scope| {
        let mut streams = Vec::new();
        for talk in &talks {
            for &side in senders {
                let (from, to) = talk.ends(side);
                streams.push(scope.spawn(move || {
                    stream(from, to, going).with_context(|| format!("{side:?} sends"))
                }));
            }
        }
        let handed_over = talks
            .iter()
            .try_for_each(|talk| site.lab.wait_handed_over(talk));
        going.store(false, Ordering::Relaxed);
        for stream in streams {
            stream.join().expect("no panic on the way")?;
        }
        handed_over
    })
}

fn open(site: &Site, count: u16) -> Result<Vec<Talk>> {
    (CLIENT_PORT..)
        .take(count.into())
        .map(|port| site.open(port))
        .collect()
}

/// Sends for as long as `going`, at least some MiB, and checks what arrives.
fn stream(from: &TcpStream, to: &TcpStream, going: &AtomicBool) -> Result<()> {
    const LEAST: usize = 8 * MIB;
    let payload = &Payload::new(from.local_addr()?.port().into());
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<usize> {
            let mut sent = 0;
            while sent < LEAST || going.load(Ordering::Relaxed) {
                payload.send_from(&mut &*from, sent, sent + MIB / 8)?;
                sent += MIB / 8;
            }
            from.shutdown(Shutdown::Write)?;
            Ok(sent)
        });
        let received = payload.receive_all(&mut &*to)?;
        let sent = sending.join().expect("no panic on the way")?;
        ensure!(received == sent, "{received} bytes of {sent} arrived");
        Ok(())
    })
}

fn eight_at_once_after_a_warm_up(family: Family) -> Result<()> {
    let site = Site::new(family)?;
    let mut talks = open(&site, 8)?;
    for talk in &mut talks {
        talk.warm_up(&site.lab)?;
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

/// The handover comes between any two of them.
fn messages_of_every_size(family: Family) -> Result<()> {
    const SIZES: [usize; 11] = [
        1, 2, 64, 1447, 1448, 1449, 4096, 16_384, 65_535, 65_536, 65_537,
    ];
    let site = Site::new(family)?;
    for (port, first) in (CLIENT_PORT..).zip(SIZES) {
        let mut talk = site.open(port)?;
        talk.ping_pong(16, first)?;
        for size in SIZES {
            talk.ping_pong(4, size)?;
        }
        talk.warm_up(&site.lab)?;
        talk.ping_pong(4, first)?;
    }
    Ok(())
}

/// Windows and timers of the one are not those of the other.
fn turns_between_bulk_and_messages(family: Family) -> Result<()> {
    let site = Site::new(family)?;
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
