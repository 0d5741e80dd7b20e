//! Sequence numbers that wrap, and counts that no longer fit into 32 bits.

use anyhow::{Context, Result, ensure};

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::addr::{HOST, Pair, TRUEPEER_PORT};
use crate::lab::repair::connect_numbered;
use crate::lab::talk::{Side, WARM_UP_BYTES};
use crate::lab::wire::Wire;

families! {
    the_balancers_numbers_wrap;
}

/// In the header, in the warm-up and after the handover, past zero and past the sign bit.
fn the_balancers_numbers_wrap(family: Family) -> Result<()> {
    const FIRST: [u32; 6] = [
        0xffff_fff0,
        0xffff_f800,
        0xfff0_0000,
        0x7fff_fff0,
        0x7fff_f800,
        0x7ff0_0000,
    ];
    let site = Site::new(family)?;
    let (source, target) = (site.of(site.balancer, 0), site.of(HOST, TRUEPEER_PORT));
    for (port, first) in (CLIENT_PORT..).zip(FIRST) {
        let mut wire = Wire::tap(&site.lab.edge, TRUEPEER_PORT)?;
        let case = || format!("from {first:#x} on");
        let balancer =
            connect_numbered(&site.lab.edge, source, target, first).with_context(case)?;
        let seen = wire.connections()?.first().context("a connection")?;
        assert_eq!(seen.next(), first.wrapping_add(1));
        let mut talk = site.open_over(balancer, port).with_context(case)?;
        talk.warm_up(&site.lab).with_context(case)?;
        talk.ping_pong(4, 1000).with_context(case)?;
        talk.transfer(&Side::BOTH, 4 * MIB).with_context(case)?;
    }
    Ok(())
}

/// The other half is a few bytes: its numbers stay where they are while these go round.
#[test]
fn more_than_four_gib() -> Result<()> {
    const LENGTH: usize = (4 << 30) + 64 * MIB;
    let mut plan = Plan::new(Pair::v4);
    plan.args = &["-v"];
    let site = plan.start()?;
    let talk = site.warm(CLIENT_PORT)?;
    talk.transfer(&[Side::App], LENGTH)?;
    talk.transfer(&[Side::Balancer], MIB)?;
    let line = site.truepeer.wait_line("both sides closed")?;
    let bytes = format!("{} bytes down", WARM_UP_BYTES + LENGTH);
    ensure!(line.contains(&bytes), "no {bytes} in {line}");
    Ok(())
}
