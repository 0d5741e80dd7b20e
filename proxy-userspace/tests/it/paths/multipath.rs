//! Multipath TCP at one end, without which the other end goes on: a SYN that asks for it, and a listener
//! that would have it, aren't the programs' to answer.

use std::io;
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;

use super::counted::{Counting, Times};
use super::site::Site;
use super::{CLIENT_PORT, MIB, Plan, only};
use crate::lab::app::App;
use crate::lab::netns::Netns;
use crate::lab::talk::Side;

only! {
    falls_back:
    multipath_balancer;
    multipath_app;
    multipath_at_both_ends;
}

fn multipath_balancer(plan: Plan<'_>) -> Result<()> {
    carries(&plan.start()?, "to_daemon_syn", Netns::connect_multipath)
}

fn multipath_app(plan: Plan<'_>) -> Result<()> {
    let listen = App::multipath;
    let site = Plan { listen, ..plan }.start()?;
    carries(&site, "to_daemon_listener", Netns::connect_from)
}

fn multipath_at_both_ends(plan: Plan<'_>) -> Result<()> {
    let listen = App::multipath;
    let site = Plan { listen, ..plan }.start()?;
    carries(&site, "to_daemon_syn", Netns::connect_multipath)
}

type Connect = fn(&Netns, SocketAddr, SocketAddr) -> io::Result<TcpStream>;

/// By the daemon, for the reason that the counter `why` has.
fn carries(site: &Site, why: &'static str, connect: Connect) -> Result<()> {
    let counting = Counting::start(&site.lab, why)?;
    let balancer = connect(&site.lab.edge, site.balancer(), site.service())?;
    let mut talk = site.open_over(balancer, CLIENT_PORT)?;
    counting.wait(Times::Once)?;
    talk.warm_up(&site.lab, site.path)?;
    talk.ping_pong(64, 100)?;
    talk.transfer(&Side::BOTH, 4 * MIB)
}
