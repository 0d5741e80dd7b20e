//! With `--handover auto`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use socket2::SockRef;

use super::{CLIENT_PORT, Family, MIB, Plan, Site, families};
use crate::lab::poll;
use crate::lab::stream::expect_reset;
use crate::lab::talk::{Side, Talk};

families! {
    bulk_after_messages;
    the_app_answers_an_ended_balancer;
    a_reset_reaches_the_other_side;
    a_second_sigterm_resets_both_sides;
}

/// A connection that is handed over.
fn handed_over(family: Family) -> Result<(Site, Talk)> {
    let mut plan = Plan::new(family);
    plan.args = &["--handover", "auto"];
    let site = plan.start()?;
    let talk = another(&site, CLIENT_PORT)?;
    Ok((site, talk))
}

fn another(site: &Site, port: u16) -> Result<Talk> {
    let mut talk = site.open(port)?;
    talk.ping_pong(64, 64)?;
    poll::until("a handover", || {
        let shown = site.lab.shown_of(&talk)?;
        Ok((shown["handed_over"] == true).then_some(()))
    })?;
    Ok(talk)
}

fn bulk_after_messages(family: Family) -> Result<()> {
    let (_site, talk) = handed_over(family)?;
    talk.transfer(&Side::BOTH, 16 * MIB)
}

fn the_app_answers_an_ended_balancer(family: Family) -> Result<()> {
    let (_site, talk) = handed_over(family)?;
    let (mut balancer, mut app) = talk.ends(Side::Balancer);
    balancer.write_all(b"last words")?;
    balancer.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    app.read_to_end(&mut heard)?;
    ensure!(heard == b"last words", "{heard:?}");
    app.write_all(&vec![7; 100_000])?;
    app.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    balancer.read_to_end(&mut answer)?;
    ensure!(answer == vec![7; 100_000], "{} bytes", answer.len());
    Ok(())
}

fn a_reset_reaches_the_other_side(family: Family) -> Result<()> {
    let (site, talk) = handed_over(family)?;
    let (balancer, mut app) = (talk.balancer, talk.app);
    reset(balancer)?;
    expect_reset(&mut app)?;
    let talk = another(&site, CLIENT_PORT + 1)?;
    let (mut balancer, app) = (talk.balancer, talk.app);
    reset(app)?;
    expect_reset(&mut balancer)
}

fn reset(stream: TcpStream) -> Result<()> {
    Ok(SockRef::from(&stream).set_linger(Some(Duration::ZERO))?)
}

fn a_second_sigterm_resets_both_sides(family: Family) -> Result<()> {
    let (site, mut talk) = handed_over(family)?;
    site.truepeer.signal(Signal::TERM)?;
    site.truepeer.wait_line("draining")?;
    site.truepeer.signal(Signal::TERM)?;
    expect_reset(&mut talk.balancer)?;
    expect_reset(&mut talk.app)
}
