//! Each half ends by itself, and the other goes on.

use std::io::Write;
use std::net::Shutdown;

use anyhow::{Context, Result};
use serde_json::json;

use super::{CLIENT_PORT, MIB, Plan, paths};
use crate::lab::stream::{expect, expect_end};
use crate::lab::talk::{Side, Talk};

paths! {
    the_app_answers_an_ended_balancer;
    the_balancer_goes_on_after_the_app;
    both_end_at_once;
    an_end_with_the_last_words;
    an_end_after_any_number_of_rounds;
    words_after_a_half_close;
    a_close_of_all_kinds_is_one;
}

fn the_app_answers_an_ended_balancer(plan: Plan<'_>) -> Result<()> {
    ends_first(plan, Side::Balancer)
}

fn the_balancer_goes_on_after_the_app(plan: Plan<'_>) -> Result<()> {
    ends_first(plan, Side::App)
}

/// Late: what follows begins after the end has come all the way through.
fn ends_first(plan: Plan<'_>, first: Side) -> Result<()> {
    let site = plan.start()?;
    let talk = site.warm(CLIENT_PORT)?;
    half_close(&talk, first)?;
    let other = match first {
        Side::Balancer => Side::App,
        Side::App => Side::Balancer,
    };
    talk.transfer(&[other], MIB)?;
    site.lab.wait_ended(&json!({ "closed": 1 }))
}

pub fn half_close(talk: &Talk, side: Side) -> Result<()> {
    let (from, to) = talk.ends(side);
    from.shutdown(Shutdown::Write)?;
    expect_end(&mut to.try_clone()?).with_context(|| format!("{side:?} has ended"))
}

fn both_end_at_once(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for port in CLIENT_PORT..CLIENT_PORT + 8 {
        let mut talk = site.warm(port)?;
        talk.balancer.shutdown(Shutdown::Write)?;
        talk.app.shutdown(Shutdown::Write)?;
        expect_end(&mut talk.balancer)?;
        expect_end(&mut talk.app)?;
    }
    site.lab.wait_ended(&json!({ "closed": 8 }))
}

/// Data and end in one go, from each side.
fn an_end_with_the_last_words(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let (mut first, mut second) = site.warm(port)?.split(side);
        first.write_all(b"last words")?;
        drop(first);
        expect(&mut second, b"last words")?;
        expect_end(&mut second)?;
    }
    site.lab.wait_ended(&json!({ "closed": 2 }))
}

/// Also right after the first segments, when the connection is still being made.
fn an_end_after_any_number_of_rounds(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for rounds in 0..64 {
        let port = CLIENT_PORT + u16::try_from(rounds)?;
        let mut talk = site.open(port)?;
        talk.ping_pong(rounds, 64)?;
        let side = Side::BOTH[rounds % 2];
        talk.close(side)
            .with_context(|| format!("{rounds} rounds"))?;
    }
    site.lab.wait_ended(&json!({ "closed": 64 }))
}

/// Several, with the other half closed all the time, and then its end.
fn words_after_a_half_close(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for (port, side) in (CLIENT_PORT..).zip(Side::BOTH) {
        let talk = site.warm(port)?;
        half_close(&talk, side)?;
        let (mut listener, mut speaker) = talk.split(side);
        for _ in 0..64 {
            speaker.write_all(b"more")?;
            expect(&mut listener, b"more")?;
        }
        drop(speaker);
        expect_end(&mut listener)?;
    }
    site.lab.wait_ended(&json!({ "closed": 2 }))
}

/// The daemon forgets a connection when both halves have ended, and not before.
fn a_close_of_all_kinds_is_one(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    half_close(&talk, Side::Balancer)?;
    let shown = site.lab.shown_of(&talk)?;
    assert!(shown.is_object(), "half a connection is one: {shown}");
    talk.app.shutdown(Shutdown::Write)?;
    expect_end(&mut talk.balancer)?;
    site.lab.wait_ended(&json!({ "closed": 1 }))?;
    assert!(site.lab.shown_of(&talk)?.is_null());
    drop(talk);
    site.no_flow_left()?;
    Ok(())
}
