//! SYNs where nobody serves.

use anyhow::{Result, ensure};

use super::bench::{Bench, FAMILIES, REDIRECT};
use super::foreign::untouched;
use super::frame::syn;
use super::syn::flags;
use super::{answer, bench::Family};
use crate::lab::addr::NEIGHBOUR;
use crate::lab::forge::{ACK, RST, SYN_OPTIONS, Segment};
use crate::lab::path::Path;
use crate::lab::poll;

/// The program that sees SYNs where connections may be direct, and where not.
const PROGRAMS: [(Path, &str); 2] = [(Path::Direct, "direct"), (Path::Daemon, "refuse")];

#[test]
fn is_reset_when_the_app_is_gone() -> Result<()> {
    for (path, program) in PROGRAMS {
        let bench = Bench::start(path)?;
        bench.apps.iter().try_for_each(|app| app.stop())?;
        for family in FAMILIES {
            for options in [SYN_OPTIONS, &[]] {
                is_reset(&bench, program, family, options)?;
            }
        }
    }
    Ok(())
}

fn is_reset(bench: &Bench, program: &str, family: Family, options: &[u8]) -> Result<()> {
    let segment = Segment {
        options,
        ..syn(family, 26_000)
    };
    let frame = bench.frame(&segment);
    // Within a tick of the clock, and a look at lo, an app may still be thought to be there.
    let ran = poll::until("a reset", || {
        let (ran, counted) = bench.count(program, bench.at_the_uplink(&frame))?;
        Ok((counted == ["app_down"]).then_some(ran))
    })?;
    ensure!(ran.code == REDIRECT, "returned {}", ran.code);
    let read = answer::read(&ran.frame)?;
    ensure!(read.ethernet == [bench.balancers_mac, bench.hosts_mac]);
    ensure!((read.source, read.destination) == (segment.to, segment.from));
    ensure!(flags(&read) == RST | ACK && read.payload.is_empty());
    ensure!(read.tcp.sequence_number == 0 && read.tcp.window_size == 0);
    ensure!(read.tcp.acknowledgment_number == segment.number + 1);
    ensure!(read.tcp.options.as_slice().is_empty());
    Ok(())
}

#[test]
fn of_others_is_the_stacks_to_answer() -> Result<()> {
    let bench = Bench::start(Path::Daemon)?;
    for family in FAMILIES {
        untouched(&bench, "refuse", &bench.frame(&syn(family, 26_001)))?;
    }
    bench.apps.iter().try_for_each(|app| app.stop())?;
    for family in FAMILIES {
        is_reset(&bench, "refuse", family, SYN_OPTIONS)?;
        let mut stranger = syn(family, 26_002);
        stranger.from = family(NEIGHBOUR, 26_002);
        untouched(&bench, "refuse", &bench.frame(&stranger))?;
        let mut early = syn(family, 26_003);
        early.payload = b"early";
        untouched(&bench, "refuse", &bench.frame(&early))?;
        let mut later = syn(family, 26_004);
        later.flags = ACK;
        untouched(&bench, "refuse", &bench.frame(&later))?;
    }
    Ok(())
}
