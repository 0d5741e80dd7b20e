//! Sequence numbers that wrap, and counts that no longer fit into 32 bits.

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, MIB, Plan, paths};
use crate::lab::addr::{Pair, TRUEPEER_PORT};
use crate::lab::path::Path;
use crate::lab::repair::connect_numbered;
use crate::lab::talk::{Side, WARM_UP_BYTES};
use crate::lab::wire::Wire;

paths! {
    the_balancers_numbers_wrap;
}

/// In the header, in the first messages and later, past zero and past the sign bit.
fn the_balancers_numbers_wrap(plan: Plan<'_>) -> Result<()> {
    const FIRST: [u32; 6] = [
        0xffff_fff0,
        0xffff_f800,
        0xfff0_0000,
        0x7fff_fff0,
        0x7fff_f800,
        0x7ff0_0000,
    ];
    let site = plan.start()?;
    let (source, target) = (site.balancer(), site.service());
    for (port, first) in (CLIENT_PORT..).zip(FIRST) {
        let mut wire = Wire::tap(&site.lab.edge, TRUEPEER_PORT)?;
        let case = || format!("from {first:#x} on");
        let balancer =
            connect_numbered(&site.lab.edge, source, target, first).with_context(case)?;
        let seen = wire.connections()?.first().context("a connection")?;
        assert_eq!(seen.next(), first.wrapping_add(1));
        let mut talk = site.open_over(balancer, port).with_context(case)?;
        talk.warm_up(&site.lab, site.path).with_context(case)?;
        talk.ping_pong(4, 1000).with_context(case)?;
        talk.transfer(&Side::BOTH, 4 * MIB).with_context(case)?;
    }
    Ok(())
}

/// The other half is a few bytes: its numbers stay where they are while these go round.
fn more_than_four_gib(path: Path) -> Result<()> {
    const LENGTH: usize = (4 << 30) + 64 * MIB;
    let site = Plan {
        args: &["-v"],
        ..Plan::new(path, Pair::v4)
    }
    .start()?;
    let talk = site.warm(CLIENT_PORT)?;
    talk.transfer(&[Side::App], LENGTH)?;
    talk.transfer(&[Side::Balancer], MIB)?;
    let line = site.truepeer.wait_line("both sides closed")?;
    let bytes = format!("{} bytes down", WARM_UP_BYTES + LENGTH);
    ensure!(line.contains(&bytes), "no {bytes} in {line}");
    Ok(())
}

#[test]
fn more_than_four_gib_direct() -> Result<()> {
    more_than_four_gib(Path::Direct)
}

#[test]
fn more_than_four_gib_daemon() -> Result<()> {
    more_than_four_gib(Path::Daemon)
}
