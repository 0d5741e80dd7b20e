//! What the daemon says of connections, also of those whose bytes it doesn't see.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::forged::Target;
use super::{CLIENT_PORT, MIB, Plan, Site, paths};
use crate::lab::addr::{APP_PORT, LOOPBACK};
use crate::lab::forge::{ACK, FIN, Segment};
use crate::lab::payload::Payload;
use crate::lab::poll;
use crate::lab::stream::{expect_reset, reset};
use crate::lab::talk::{Side, Talk, WARM_UP_BYTES};

paths! {
    bytes_are_counted_on;
    the_log_has_all_bytes;
    an_open_connection_is_open;
    resets_are_counted;
    a_late_copy_of_an_end_is_no_reset;
}

fn bytes_are_counted_on(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let talk = site.warm(CLIENT_PORT)?;
    let payload = Payload::new(1);
    let (mut up, mut down) = (WARM_UP_BYTES, WARM_UP_BYTES);
    wait_counted(&site, &talk, [up, down])?;
    for (side, length) in [
        (Side::Balancer, 100_000),
        (Side::App, 200_000),
        (Side::App, 1),
    ] {
        let (from, to) = talk.ends(side);
        payload.send(&mut &*from, length)?;
        payload.receive_from(&mut &*to, 0, length)?;
        match side {
            Side::Balancer => up += length,
            Side::App => down += length,
        }
        wait_counted(&site, &talk, [up, down])?;
    }
    Ok(())
}

fn counted(site: &Site, talk: &Talk) -> Result<[usize; 2]> {
    let shown = site.lab.shown_of(talk)?;
    let number = |name| -> Result<usize> {
        let value: &Value = &shown[name];
        Ok(value
            .as_u64()
            .with_context(|| shown.to_string())?
            .try_into()?)
    };
    Ok([number("up")?, number("down")?])
}

fn wait_counted(site: &Site, talk: &Talk, expected: [usize; 2]) -> Result<()> {
    let mut last = [0, 0];
    poll::until("all bytes to be counted", || {
        last = counted(site, talk)?;
        Ok((last == expected).then_some(()))
    })
    .with_context(|| format!("{last:?} where {expected:?} should be"))
}

fn the_log_has_all_bytes(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        args: &["-v"],
        ..plan
    }
    .start()?;
    let talk = site.warm(CLIENT_PORT)?;
    talk.transfer(&Side::BOTH, 3 * MIB)?;
    let line = site.truepeer.wait_line("both sides closed")?;
    let all = WARM_UP_BYTES + 3 * MIB;
    let bytes = format!("{all} bytes up and {all} bytes down");
    ensure!(line.contains(&bytes), "no {bytes} in {line}");
    site.lab.wait_ended(&json!({ "closed": 1 }))
}

fn an_open_connection_is_open(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let talk = site.warm(CLIENT_PORT)?;
    let counts = site.lab.counts()?;
    assert_eq!(counts["open"], 1, "{counts:#}");
    let shown = site.lab.shown_of(&talk)?;
    assert_eq!(shown["client"], site.client(CLIENT_PORT).to_string());
    assert_eq!(shown["spoofed"], true);
    assert_eq!(shown["target"], site.of(LOOPBACK, APP_PORT).to_string());
    assert_eq!(shown["header"]["version"], "v2");
    Ok(())
}

fn resets_are_counted(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let (resetter, mut other) = site.warm(port)?.split(side);
        reset(resetter)?;
        expect_reset(&mut other)?;
    }
    site.lab.wait_ended(&json!({ "reset": 2 }))?;
    let counts = site.lab.counts()?;
    assert_eq!(counts["open"], 0, "{counts:#}");
    assert_eq!(site.lab.shown("connections")?, json!([]));
    Ok(())
}

/// The stack answers it with a reset once the app's socket is gone, which ends nothing any more.
fn a_late_copy_of_an_end_is_no_reset(plan: Plan<'_>) -> Result<()> {
    const COPIES: usize = 100;
    let target = Target::new(plan)?;
    let end = Segment {
        flags: FIN | ACK,
        ..target.segment()?
    };
    let Target {
        spray, talk, site, ..
    } = target;
    talk.close(Side::Balancer)?;
    spray.send([end; COPIES])?;
    site.lab.wait_ended(&json!({ "closed": 1 }))
}
