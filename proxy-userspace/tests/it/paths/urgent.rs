//! Urgent bytes: whoever has them inline finds them in their place, and what is behind them arrives
//! without another byte from the sender.

use std::io::Write;

use anyhow::{Context, Result};
use socket2::SockRef;

use super::{CLIENT_PORT, MIB, Plan, paths};
use crate::lab::payload::Payload;
use crate::lab::stream::expect;
use crate::lab::talk::{Side, Talk};

paths! {
    in_a_message;
    behind_bulk;
}

fn in_a_message(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let talk = site.warm(CLIENT_PORT)?;
    Side::BOTH
        .into_iter()
        .try_for_each(|side| urgent(&talk, side))
}

/// Where the daemon has the kernel move what comes.
fn behind_bulk(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let talk = site.warm(CLIENT_PORT)?;
    for side in Side::BOTH {
        talk.part(side, &Payload::new(1), 0, 8 * MIB)?;
        urgent(&talk, side)?;
    }
    Ok(())
}

fn urgent(talk: &Talk, side: Side) -> Result<()> {
    let (mut from, to) = talk.ends(side);
    SockRef::from(to).set_out_of_band_inline(true)?;
    from.write_all(b"before")?;
    SockRef::from(from).send_out_of_band(b"!")?;
    from.write_all(b"behind")?;
    expect(&mut to.try_clone()?, b"before!behind").with_context(|| format!("{side:?} sends"))
}
