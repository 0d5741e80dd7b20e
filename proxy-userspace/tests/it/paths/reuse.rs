//! The same client ip:port again, and the balancer's as well, right after the last connection.

use std::net::Shutdown;

use anyhow::{Context, Result};

use super::{CLIENT_PORT, Plan, paths};
use crate::lab::Lab;
use crate::lab::stream::expect_end;
use crate::lab::talk::Talk;
use crate::steering::reuse::{the_app_closes_first, the_app_resets, the_client_resets};

const ROUNDS: usize = 50;
/// A port that no kernel picks by itself, and that nobody else here has.
const BALANCER_PORT: u16 = 20_400;

paths! {
    after_the_app_closes_first;
    after_the_balancer_closes_first;
    after_the_app_resets;
    after_the_balancer_resets;
}

fn after_the_app_closes_first(plan: Plan<'_>) -> Result<()> {
    again(plan, Paths::Any, |_| BALANCER_PORT, the_app_closes_first)
}

fn after_the_app_resets(plan: Plan<'_>) -> Result<()> {
    again(plan, Paths::Same, |_| BALANCER_PORT, the_app_resets)
}

fn after_the_balancer_resets(plan: Plan<'_>) -> Result<()> {
    again(plan, Paths::Same, |_| BALANCER_PORT, the_client_resets)
}

/// The balancer's own kernel keeps its port in TIME_WAIT, so it is another one each time.
fn after_the_balancer_closes_first(plan: Plan<'_>) -> Result<()> {
    again(
        plan,
        Paths::Same,
        |round| BALANCER_PORT + round,
        |_, mut talk| {
            talk.balancer.shutdown(Shutdown::Write)?;
            expect_end(&mut talk.app)?;
            drop(talk.app);
            expect_end(&mut talk.balancer)
        },
    )
}

/// Of the connections after the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paths {
    Same,
    Any,
}

fn again(
    plan: Plan<'_>,
    paths: Paths,
    balancer_port: fn(u16) -> u16,
    end: fn(&Lab, Talk) -> Result<()>,
) -> Result<()> {
    let site = plan.start()?;
    for round in (0..).take(ROUNDS) {
        let case = || format!("round {round}");
        let mut talk = site
            .open_from(balancer_port(round), CLIENT_PORT)
            .with_context(case)?;
        talk.round_trip().with_context(case)?;
        // While the app's end is in TIME_WAIT, the daemon may have to find a way.
        if round == 0 || paths == Paths::Same {
            talk.warm_up(&site.lab, site.path).with_context(case)?;
        }
        end(&site.lab, talk).with_context(case)?;
    }
    Ok(())
}
