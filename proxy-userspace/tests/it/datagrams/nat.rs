//! Hosts that hide what leaves by the uplink behind its address, and whose conntrack has forgotten a client before
//! the application has said all. What that says then is a beginning to conntrack, and gets another source.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::clients::counted;
use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{HOST, LOOPBACK, Pair, WILDCARD};
use crate::lab::datagram::Framing;
use crate::steering::firewalls::MASQUERADE;
use crate::steering::site::nft;

rows! {
    an_answer_by_loopback;
    an_answer_by_a_wildcard_address;
    an_answer_by_the_host_s_address;
    a_late_answer;
}

/// As its time-outs would have it, the first of which are half of truepeer's own.
fn have_conntrack_forget(site: &Site) -> Result<()> {
    let family = match site.service() {
        SocketAddr::V4(_) => "ipv4",
        SocketAddr::V6(_) => "ipv6",
    };
    // It fails if there is none.
    let line = format!("conntrack -D -f {family} -p udp");
    site.lab.host.run(&line).map(drop)
}

fn answers(plan: Plan<'_>, target: Pair, bind: Pair) -> Result<()> {
    for &framing in Framing::scaled() {
        let set_up = |lab: &Lab| nft(&lab.host, MASQUERADE);
        let plan = Plan {
            set_up: &set_up,
            framing,
            target,
            bind,
            ..plan
        };
        let site = plan.start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        for words in [&b"later"[..], &[7; 4000]] {
            have_conntrack_forget(&site)?;
            site.app.say(site.client(1000), words)?;
            if let Err(error) = site.answered(&balancer, 1000, words) {
                site.leaks.saw_none()?;
                return Err(error).context(format!("{} bytes by {framing:?}", words.len()));
            }
        }
        site.end()?;
    }
    Ok(())
}

fn an_answer_by_loopback(plan: Plan<'_>) -> Result<()> {
    answers(plan, LOOPBACK, LOOPBACK)
}

fn an_answer_by_a_wildcard_address(plan: Plan<'_>) -> Result<()> {
    answers(plan, LOOPBACK, WILDCARD)
}

fn an_answer_by_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    answers(plan, HOST, HOST)
}

fn a_late_answer(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| nft(&lab.host, MASQUERADE);
    let plan = Plan {
        set_up: &set_up,
        args: &["--close-after", "1s"],
        ..plan
    };
    let site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.wait_forgotten()?;
    have_conntrack_forget(&site)?;
    site.app.say(site.client(1000), b"late")?;
    counted(&site, "datagram_orphan", 1)?;
    site.leaks.saw_none()
}
