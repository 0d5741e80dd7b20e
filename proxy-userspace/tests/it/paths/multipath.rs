//! Multipath TCP at one end, without which the other end goes on: a SYN that asks for it, and a listener
//! that would have it, aren't the programs' to answer. They aren't asked to once the daemon has seen
//! the listener.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use rustix::process::Signal;

use super::counted::{Counting, Times};
use super::site::Site;
use super::{CLIENT_PORT, MIB, Plan, only};
use crate::lab::addr::{APP_PORT, LOOPBACK};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::talk::{Side, Talk};

only! {
    falls_back:
    multipath_balancer;
    multipath_app;
    multipath_app_of_late;
    multipath_at_both_ends;
}

fn multipath_balancer(plan: Plan<'_>) -> Result<()> {
    carries(&plan.start()?, "to_daemon_syn", Netns::connect_multipath)
}

fn multipath_app(plan: Plan<'_>) -> Result<()> {
    let listen = App::multipath;
    let site = Plan { listen, ..plan }.start()?;
    carries(&site, "to_daemon_service", Netns::connect_from)
}

/// Since the balancer has connected, so that the programs haven't been told.
pub fn multipath_app_of_late(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let counting = Counting::start(&site.lab, "to_daemon_listener")?;
    let balancer = site.connect(0)?;
    site.truepeer.signal(Signal::STOP)?;
    site.app.stop()?;
    site.app = App::multipath(&site.lab.host, site.of(LOOPBACK, APP_PORT))?;
    (&balancer).write_all(&site.header(Version::V2, CLIENT_PORT))?;
    site.truepeer.signal(Signal::CONT)?;
    counting.wait(Times::Once)?;
    talks(
        &site,
        Talk::accept(balancer, &site.app, site.client(CLIENT_PORT))?,
    )
}

fn multipath_at_both_ends(plan: Plan<'_>) -> Result<()> {
    let listen = App::multipath;
    let site = Plan { listen, ..plan }.start()?;
    carries(&site, "to_daemon_service", Netns::connect_multipath)
}

type Connect = fn(&Netns, SocketAddr, SocketAddr) -> io::Result<TcpStream>;

/// By the daemon, for the reason that the counter `why` has.
fn carries(site: &Site, why: &'static str, connect: Connect) -> Result<()> {
    let counting = Counting::start(&site.lab, why)?;
    let balancer = connect(&site.lab.edge, site.balancer(), site.service())?;
    let talk = site.open_over(balancer, CLIENT_PORT)?;
    counting.wait(Times::Once)?;
    talks(site, talk)
}

fn talks(site: &Site, mut talk: Talk) -> Result<()> {
    talk.warm_up(&site.lab, site.path)?;
    talk.ping_pong(64, 100)?;
    talk.transfer(&Side::BOTH, 4 * MIB)
}
