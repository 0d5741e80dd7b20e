//! What counts for whom once another daemon is there.

use std::net::TcpListener;

use anyhow::{Context, Result};
use serde_json::json;

use crate::lab::addr::HOST;
use crate::lab::poll;
use crate::lab::stream::expect_reset;
use crate::lab::talk::Side;
use crate::lab::truepeer::Truepeer;
use crate::paths::site::{Plan, Site};
use crate::paths::{CLIENT_PORT, only};

only! {
    direct:
    the_next_daemon_goes_on_counting;
    the_next_daemon_counts_what_the_killed_one_left;
    a_take_over_that_fails_changes_no_count;
}

only! {
    daemon:
    what_a_killed_daemon_had_counts_no_more;
}

fn the_next_daemon_goes_on_counting(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1"];
    let plan = Plan { args, ..plan };
    let mut site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let take_over = ["--take-over"];
    let next = plan.truepeer(&site.lab).args(take_over).start()?;
    site.truepeer.wait_line("replaced by another daemon")?;
    site.truepeer.wait_exit()?;
    site.truepeer = next;
    site.limit_is_reached(CLIENT_PORT + 1)?;
    talk.round_trip()?;
    // A third one, which limits something else: it counts who is there.
    let third = Plan {
        args: &["--maxconn-per-balancer", "1"],
        ..plan
    };
    let next = third.truepeer(&site.lab).args(take_over).start()?;
    site.truepeer.wait_exit()?;
    site.truepeer = next;
    site.lab.shown("status")?;
    site.limit_is_reached(CLIENT_PORT + 2)?;
    site.lab.wait_ended(&json!({ "balancer_maxconn": 1 }))?;
    talk.close(Side::Balancer)?;
    site.lab
        .wait_ended(&json!({ "balancer_maxconn": 1, "closed": 1 }))?;
    site.warm(CLIENT_PORT + 3)?.round_trip()
}

/// Another daemon may continue it once it is killed.
fn with_a_patient_keeper(plan: Plan<'_>) -> Result<(Site, Truepeer)> {
    let mut site = plan.start()?;
    site.kill()?;
    site.lab.no_device_left()?;
    let truepeer = plan.truepeer(&site.lab).orphan_timeout("10s");
    site.truepeer = truepeer.start()?;
    Ok((site, truepeer))
}

fn the_next_daemon_counts_what_the_killed_one_left(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1"];
    let plan = Plan { args, ..plan };
    let (mut site, truepeer) = with_a_patient_keeper(plan)?;
    let mut talk = site.warm(CLIENT_PORT + 1)?;
    site.truepeer.kill()?;
    site.truepeer = truepeer.start()?;
    talk.round_trip().context("with the next one")?;
    site.limit_is_reached(CLIENT_PORT + 2)?;
    talk.close(Side::Balancer)?;
    poll::until("its end to be heard of", || {
        Ok((site.lab.ended_as("closed")? == 1).then_some(()))
    })?;
    site.warm(CLIENT_PORT + 3)?.round_trip()
}

fn a_take_over_that_fails_changes_no_count(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1"];
    let plan = Plan { args, ..plan };
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    // Somebody is where it would listen as well.
    let taken = site.of(HOST, 7009);
    let _other = site.lab.host.enter(|| TcpListener::bind(taken))?;
    let taker = plan
        .truepeer(&site.lab)
        .listen([site.service(), taken])
        .args(["--take-over"]);
    taker.run_to_end()?.expect(1, &["7009"])?;
    site.limit_is_reached(CLIENT_PORT + 1)?;
    talk.round_trip()?;
    site.lab.wait_ended(&json!({ "client_maxconn": 1 }))
}

/// They have ended with it.
fn what_a_killed_daemon_had_counts_no_more(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1"];
    let plan = Plan { args, ..plan };
    let (mut site, truepeer) = with_a_patient_keeper(plan)?;
    let mut talk = site.warm(CLIENT_PORT)?;
    site.truepeer.kill()?;
    expect_reset(&mut talk.balancer)?;
    site.truepeer = truepeer.start()?;
    site.warm(CLIENT_PORT + 1)?.round_trip()?;
    Ok(())
}
