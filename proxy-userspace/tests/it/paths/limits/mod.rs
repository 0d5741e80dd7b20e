//! As many connections as each balancer and each client may have, whichever path they take.

mod successors;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::counted::{Counting, Times};
use super::headers::after_one_segment;
use super::multipath::multipath_app_of_late;
use super::site::Site;
use super::{CLIENT_PORT, Plan, only, paths};
use crate::lab::addr::{BALANCER, CLIENT, FRONT, FRONT_PORT, NEIGHBOUR, OTHER_CLIENT, Pair};
use crate::lab::header::{Version, v2_raw};
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::stream::{expect_reset, has_closed, reset};
use crate::lab::talk::{Side, Talk};

paths! {
    a_client_has_as_many_as_it_may;
    a_balancer_has_as_many_as_it_may;
    a_client_opens_as_many_as_it_may;
    a_balancer_opens_as_many_as_it_may;
    whoever_is_refused_takes_nothing_of_the_balancer_s;
    what_the_balancer_says_for_itself_counts_for_nobody;
    what_never_came_about_counts_for_nobody;
}

only! {
    direct:
    what_has_just_ended_makes_room;
    both_paths_count_together;
    one_that_comes_again_is_no_new_one;
}

only! {
    falls_back:
    what_the_programs_give_up_counts_once;
}

impl Site {
    /// Of another client than [`Self::client`], or by another balancer.
    fn open_as(&self, balancer: Pair, client: Pair, port: u16) -> Result<Talk> {
        let stream = self.begin_as(balancer, client, port)?;
        Talk::accept(stream, &self.app, self.of(client, port))
    }

    fn begin_as(&self, balancer: Pair, client: Pair, port: u16) -> Result<TcpStream> {
        let (source, to) = (self.of(balancer, 0), self.service());
        let mut stream = self.lab.edge.connect_from(source, to)?;
        let front = self.of(FRONT, FRONT_PORT);
        stream.write_all(&Version::V2.header(self.of(client, port), front))?;
        Ok(stream)
    }

    fn limit_is_reached(&self, port: u16) -> Result<()> {
        expect_reset(&mut self.begin(port, b"words")?)?;
        self.app.saw_nobody()
    }

    fn handed_over(&self) -> Result<u64> {
        let status = self.lab.shown("status")?;
        status["kernel"]["to_daemon_limit"]
            .as_u64()
            .context("a number")
    }

    /// How many connections the programs have left for the daemon to refuse.
    fn programs_refused(&self, count: u64) -> Result<()> {
        let expected = match self.path {
            Path::Direct => count,
            Path::Daemon => 0,
        };
        let found = self.handed_over()?;
        ensure!(found == expected, "{found} and not {expected}");
        Ok(())
    }
}

fn a_client_has_as_many_as_it_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "2"];
    let site = Plan { args, ..plan }.start()?;
    let mut talks = [site.warm(CLIENT_PORT)?, site.warm(CLIENT_PORT + 1)?];
    for port in [CLIENT_PORT + 2, CLIENT_PORT + 3] {
        site.limit_is_reached(port)?;
    }
    site.lab.wait_ended(&json!({ "client_maxconn": 2 }))?;
    site.programs_refused(2)?;
    site.truepeer.wait_line("--maxconn-per-client")?;
    let mut other = site.open_as(BALANCER, OTHER_CLIENT, CLIENT_PORT)?;
    other.warm_up(&site.lab, site.path)?;
    for talk in &mut talks {
        talk.ping_pong(4, 100)?;
    }
    let shown = site.lab.shown("status")?["services"][0]["each"].take();
    ensure!(shown["maxconn_per_client"] == 2, "{shown:#}");

    let [first, _second] = talks;
    first.close(Side::Balancer)?;
    site.lab
        .wait_ended(&json!({ "client_maxconn": 2, "closed": 1 }))?;
    site.warm(CLIENT_PORT + 4)?.round_trip()?;
    site.programs_refused(2)
}

fn a_balancer_has_as_many_as_it_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-balancer", "2"];
    let site = with_another_balancer(Plan { args, ..plan })?;
    let mut first = site.warm(CLIENT_PORT)?;
    let mut second = site.open_as(BALANCER, OTHER_CLIENT, CLIENT_PORT)?;
    second.warm_up(&site.lab, site.path)?;
    site.limit_is_reached(CLIENT_PORT + 1)?;
    site.lab.wait_ended(&json!({ "balancer_maxconn": 1 }))?;
    site.programs_refused(1)?;
    site.truepeer.wait_line("--maxconn-per-balancer")?;
    let mut others = site.open_as(NEIGHBOUR, CLIENT, CLIENT_PORT + 2)?;
    others.warm_up(&site.lab, site.path)?;
    first.round_trip()?;

    // The balancer breaks off.
    reset(second.balancer)?;
    expect_reset(&mut second.app)?;
    site.lab
        .wait_ended(&json!({ "balancer_maxconn": 1, "reset": 1 }))?;
    site.warm(CLIENT_PORT + 3)?.round_trip()?;
    site.programs_refused(1)
}

fn with_another_balancer(plan: Plan<'_>) -> Result<Site> {
    let other = (plan.family)(NEIGHBOUR, 0).ip().to_string();
    let allow = &[&*other];
    Plan { allow, ..plan }.start()
}

/// Opens connections of these until one of them is refused; how many were served. A slow machine gets tokens meanwhile.
fn until_refused(site: &Site, client: Pair, port: u16) -> Result<u16> {
    let mut served = 0;
    poll::until("a connection to be refused", || {
        let mut balancer = site.begin_as(BALANCER, client, port + served)?;
        let outcome = match balancer.write_all(b"words") {
            // Its header was enough.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            written => {
                written?;
                site.served(&mut balancer)?
            }
        };
        served += u16::from(outcome);
        Ok((!outcome).then_some(()))
    })?;
    Ok(served)
}

impl Site {
    /// Whether the app gets it, or its balancer is refused.
    fn served(&self, balancer: &mut TcpStream) -> Result<bool> {
        balancer.set_nonblocking(true)?;
        let served = poll::until("a connection to be served or refused", || {
            if self.app.accept_now()?.is_some() {
                return Ok(Some(true));
            }
            let refused = match balancer.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
                other => bail!("neither served nor reset: {other:?}"),
            };
            Ok(refused.then_some(false))
        })?;
        balancer.set_nonblocking(false)?;
        Ok(served)
    }
}

fn a_client_opens_as_many_as_it_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconnrate-per-client", "3"];
    let site = Plan { args, ..plan }.start()?;
    let served = until_refused(&site, CLIENT, CLIENT_PORT)?;
    ensure!(served >= 3, "a bucket of {served}");
    ensure!(
        site.lab.ended_as("client_maxconnrate")? == 1,
        "not for that"
    );
    site.programs_refused(1)?;
    site.truepeer.wait_line("--maxconnrate-per-client")?;
    site.open_as(BALANCER, OTHER_CLIENT, CLIENT_PORT)?
        .round_trip()?;
    // The bucket fills again.
    poll::until("a token", || {
        let mut balancer = site.begin_as(BALANCER, CLIENT, CLIENT_PORT + 900)?;
        Ok(site.served(&mut balancer)?.then_some(()))
    })
}

fn a_balancer_opens_as_many_as_it_may(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconnrate-per-balancer", "3"];
    let site = with_another_balancer(Plan { args, ..plan })?;
    let served = until_refused(&site, CLIENT, CLIENT_PORT)?;
    ensure!(served >= 3, "a bucket of {served}");
    ensure!(
        site.lab.ended_as("balancer_maxconnrate")? == 1,
        "not for that"
    );
    site.programs_refused(1)?;
    site.truepeer.wait_line("--maxconnrate-per-balancer")?;
    site.open_as(NEIGHBOUR, CLIENT, CLIENT_PORT + 800)?
        .round_trip()
}

/// Nor do they take anything of the client's.
fn whoever_is_refused_takes_nothing_of_the_balancer_s(plan: Plan<'_>) -> Result<()> {
    let args = &[
        "--maxconn-per-client",
        "1",
        "--maxconnrate-per-client",
        "2",
        "--maxconnrate-per-balancer",
        "3",
    ];
    let site = Plan { args, ..plan }.start()?;
    let first = site.warm(CLIENT_PORT)?;
    for port in (CLIENT_PORT + 1..).take(6) {
        site.limit_is_reached(port)?;
    }
    site.lab.wait_ended(&json!({ "client_maxconn": 6 }))?;
    let mut other = site.open_as(BALANCER, OTHER_CLIENT, CLIENT_PORT)?;
    other.round_trip()?;
    first.close(Side::Balancer)?;
    site.lab
        .wait_ended(&json!({ "client_maxconn": 6, "closed": 1 }))?;
    site.warm(CLIENT_PORT + 7)?.round_trip()
}

const ONE_OF_EACH: [&str; 8] = [
    "--maxconn-per-client",
    "1",
    "--maxconn-per-balancer",
    "1",
    "--maxconnrate-per-client",
    "1",
    "--maxconnrate-per-balancer",
    "1",
];

fn what_the_balancer_says_for_itself_counts_for_nobody(plan: Plan<'_>) -> Result<()> {
    let args = &ONE_OF_EACH;
    let site = Plan { args, ..plan }.start()?;
    let mut checks = Vec::new();
    for _ in 0..3 {
        let balancer = site.connect(0)?;
        let own = balancer.local_addr()?;
        (&balancer).write_all(&v2_raw(0x20, 0, &[]))?;
        checks.push(Talk::accept(balancer, &site.app, own)?);
    }
    site.warm(CLIENT_PORT)?.round_trip()?;
    for check in &mut checks {
        check.round_trip()?;
    }
    site.programs_refused(0)
}

/// The application isn't there: not for its client, and not for its balancer, who has all of it once it is.
fn what_never_came_about_counts_for_nobody(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "1", "--maxconn-per-balancer", "1"];
    let site = Plan { args, ..plan }.start()?;
    let mut balancers = Vec::new();
    for _ in 0..3 {
        balancers.push(site.connect(0)?);
    }
    site.app.stop()?;
    for (mut balancer, port) in balancers.into_iter().zip(CLIENT_PORT..) {
        balancer.write_all(&site.header(Version::V2, port))?;
        ensure!(has_closed(&mut balancer), "it was taken");
    }
    site.lab.wait_ended(&json!({ "connect_failed": 3 }))?;
    site.app.resume()?;
    site.warm(CLIENT_PORT + 3)?.round_trip()?;
    site.programs_refused(0)
}

/// They have counted it when the kernel doesn't make the application's socket of it, and the daemon counts it then.
fn what_the_programs_give_up_counts_once(plan: Plan<'_>) -> Result<()> {
    let args = &ONE_OF_EACH;
    multipath_app_of_late(Plan { args, ..plan })
}

/// The programs look at what is there twice a second; here nobody waits for them.
fn what_has_just_ended_makes_room(plan: Plan<'_>) -> Result<()> {
    const ROUNDS: u16 = 20;
    let args = &["--maxconn-per-client", "1", "--maxconn-per-balancer", "1"];
    let site = Plan { args, ..plan }.start()?;
    let mut talk = site.open(CLIENT_PORT)?;
    for port in (CLIENT_PORT + 1..).take(ROUNDS.into()) {
        talk.round_trip()?;
        if port % 2 == 0 {
            talk.close(Side::App)?;
        } else {
            let Talk { balancer, mut app } = talk;
            reset(balancer)?;
            expect_reset(&mut app)?;
        }
        talk = match site.open(port) {
            Ok(talk) => talk,
            Err(error) => return Err(error).with_context(|| format!("port {port}")),
        };
        // By the daemon it was, which has to hear of its end first.
        if site.lab.shown("connections")?[0]["path"] == "daemon" {
            talk.close(Side::App)?;
            poll::until("the daemon to hear of it", || {
                let shown = site.lab.shown("connections")?;
                Ok(shown.as_array().is_some_and(Vec::is_empty).then_some(()))
            })?;
            talk = site.open(port + 100)?;
        }
    }
    ensure!(site.handed_over()? > 0, "nobody was handed over");
    Ok(())
}

/// A header in two segments is the daemon's.
fn both_paths_count_together(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "2"];
    let site = Plan { args, ..plan }.start()?;
    let mut direct = site.warm(CLIENT_PORT)?;
    let header = site.header(Version::V2, CLIENT_PORT + 1);
    let (first, rest) = header.split_at(20);
    let mut balancer = after_one_segment(&site, first)?;
    balancer.write_all(rest)?;
    let mut daemons = Talk::accept(balancer, &site.app, site.client(CLIENT_PORT + 1))?;
    daemons.warm_up(&site.lab, Path::Daemon)?;
    site.limit_is_reached(CLIENT_PORT + 2)?;
    site.lab.wait_ended(&json!({ "client_maxconn": 1 }))?;
    direct.round_trip()?;
    daemons.close(Side::Balancer)?;
    site.lab
        .wait_ended(&json!({ "client_maxconn": 1, "closed": 1 }))?;
    site.warm(CLIENT_PORT + 3)?.round_trip()?;
    direct.round_trip()
}

/// The application's queue is full for a while.
fn one_that_comes_again_is_no_new_one(plan: Plan<'_>) -> Result<()> {
    let args = &["--maxconn-per-client", "2", "--maxconnrate-per-client", "2"];
    let site = Plan { args, ..plan }.start()?;
    site.app.limit(0)?;
    let again = Counting::start(&site.lab, "direct_again")?;
    let _before = site.begin(CLIENT_PORT, b"before\n")?;
    let _next = site.begin(CLIENT_PORT + 1, b"next\n")?;
    again.wait(Times::AtLeast(2))?;
    for _ in 0..2 {
        site.app.accept()?;
    }
    site.programs_refused(0)
}
