//! Clients that an operator refuses, whoever their balancer is.

use std::fs;
use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::NamedTempFile;

use super::{CLIENT_PORT, Plan, Site, only, paths};
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT, NEIGHBOUR, OTHER_CLIENT};
use crate::lab::header::{Version, v2};
use crate::lab::path::Path;
use crate::lab::stream::{expect_cut, expect_reset};
use crate::lab::talk::Talk;

only! {
    daemon:
    what_a_replaced_daemon_has_open_is_reset_too;
}

paths! {
    a_denied_client_is_refused;
    what_it_has_open_is_reset;
    the_file_is_read_again;
    the_list_outlives_the_daemon;
    a_balancer_that_speaks_for_itself_is_no_client;
}

fn a_denied_client_is_refused(plan: Plan<'_>) -> Result<()> {
    let denied = (plan.family)(CLIENT, 0).ip().to_string();
    let args = &["--deny", &denied];
    let site = Plan { args, ..plan }.start()?;
    let mut balancer = site.begin(CLIENT_PORT, b"words")?;
    expect_reset(&mut balancer)?;
    site.app.saw_nobody()?;
    site.lab.wait_ended(&json!({ "client_denied": 1 }))?;
    let status = site.lab.shown("status")?;
    let by_programs = u64::from(site.path == Path::Direct);
    assert_eq!(status["kernel"]["to_daemon_denied"], by_programs);

    another_ones(&site, CLIENT_PORT)?.round_trip()?;
    site.lab
        .truepeer_raw(&["check", "--client", &denied])?
        .expect(2, &["--listen"])?;
    let check = plan.truepeer(&site.lab).args(["--client", &denied]);
    check.check()?.expect(1, &["denied by", &denied])
}

/// One of a client that nobody denies.
fn another_ones(site: &Site, port: u16) -> Result<Talk> {
    let balancer = site.connect(0)?;
    let client = site.of(OTHER_CLIENT, port);
    let header = Version::V2.header(client, site.of(FRONT, FRONT_PORT));
    (&balancer).write_all(&header)?;
    let mut talk = Talk::accept(balancer, &site.app, client)?;
    talk.warm_up(&site.lab, site.path)?;
    Ok(talk)
}

fn what_it_has_open_is_reset(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let client = site.client(0).ip().to_string();
    let mut talk = site.warm(CLIENT_PORT)?;
    let mut other = another_ones(&site, CLIENT_PORT + 1)?;
    site.lab
        .deny(&[&client], &["added", "ended 1 open connection"])?;
    expect_reset(&mut talk.balancer).context("the balancer")?;
    expect_cut(&mut talk.app).context("the app")?;
    other.ping_pong(64, 100)?;
    expect_reset(&mut site.begin(CLIENT_PORT + 2, b"words")?)?;
    site.app.saw_nobody()?;

    site.lab.deny(&["remove", &client], &["removed"])?;
    site.warm(CLIENT_PORT + 3)?.ping_pong(64, 10)
}

fn what_a_replaced_daemon_has_open_is_reset_too(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let mut other = another_ones(&site, CLIENT_PORT + 1)?;
    let _next = plan.truepeer(&site.lab).args(["--take-over"]).start()?;
    site.truepeer.wait_line("replaced by another daemon")?;
    site.lab
        .deny(&[&site.client(0).ip().to_string()], &["added"])?;
    expect_reset(&mut talk.balancer)?;
    other.ping_pong(64, 10)
}

fn the_file_is_read_again(plan: Plan<'_>) -> Result<()> {
    let file = NamedTempFile::new()?;
    let path = file.path().to_str().context("UTF-8")?;
    let args = &["--deny-file", path];
    let site = Plan { args, ..plan }.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    fs::write(&file, format!("# scanners\n{}\n", site.client(0).ip()))?;
    let reload = ["reload", "--instance", site.lab.instance()];
    site.lab.truepeer_raw(&reload)?.expect(0, &["prefixes"])?;
    expect_reset(&mut talk.balancer)?;
    expect_reset(&mut site.begin(CLIENT_PORT + 1, b"words")?)?;

    fs::write(&file, "")?;
    site.lab.truepeer_raw(&reload)?.expect(0, &[])?;
    site.warm(CLIENT_PORT + 2)?.round_trip()
}

fn the_list_outlives_the_daemon(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let network = if plan.is_v4() {
        "203.0.113.8/30"
    } else {
        "2001:db8:c::8/125"
    };
    site.lab.deny(&[network], &["added"])?;
    let client = site.client(0).ip().to_string();
    site.lab
        .deny(&["test", &client], &["denied", network, "live"])?;
    site.kill()?;
    let truepeer = plan.truepeer(&site.lab).start()?;
    expect_reset(&mut site.begin(CLIENT_PORT, b"words")?)?;
    site.app.saw_nobody()?;
    site.lab.deny(&["list"], &[network])?;
    let elsewhere = site.of(NEIGHBOUR, 0).ip().to_string();
    site.lab
        .deny(&["replace", &elsewhere], &["added", "removed"])?;
    let talk = site.open(CLIENT_PORT)?;
    drop((talk, truepeer));
    Ok(())
}

/// Its health checks have to go on, whatever the list says of its address.
fn a_balancer_that_speaks_for_itself_is_no_client(plan: Plan<'_>) -> Result<()> {
    const LOCAL: u8 = 0x20;
    let everybody = if plan.is_v4() { "0.0.0.0/0" } else { "::/0" };
    let args = &["--deny", everybody];
    let site = Plan { args, ..plan }.start()?;
    expect_reset(&mut site.begin(CLIENT_PORT, b"words")?)?;
    let balancer = site.connect(0)?;
    let own = balancer.local_addr()?;
    (&balancer).write_all(&v2(LOCAL, own, site.of(FRONT, FRONT_PORT), &[]))?;
    let mut talk = Talk::accept(balancer, &site.app, own)?;
    talk.round_trip()?;
    site.lab.deny(&[everybody], &["is there already"])?;
    ensure!(talk.round_trip().is_ok(), "it was ended");
    Ok(())
}
