//! Two instances before one application, each for another framing.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{APP_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT};
use crate::lab::datagram::{self, Framing};
use crate::lab::poll;
use crate::lab::proc::Proc;

rows! {
    told_that_there_are_outsiders;
    both_refuse_outsiders;
}

/// What the other one listens for, and where.
const OTHER: Framing = Framing::Spp;
const OTHER_PORT: u16 = TRUEPEER_PORT + 1;
const SUFFIX: &str = "-b";
/// Ports of a client of each.
const CLIENT: u16 = 1000;
const OTHERS_CLIENT: u16 = 2000;

/// The site's own, and another one with the same application.
struct Both {
    other: Proc,
    site: Site,
    balancers: [UdpSocket; 2],
}

impl Both {
    fn start<'a>(plan: Plan<'a>, at: Pair, args: &'a [&'a str]) -> Result<Self> {
        let plan = Plan { args, ..plan };
        let site = plan.app_at(at).start()?;
        let other = site.lab.truepeer().instance_suffix(SUFFIX);
        let other = other.targets_for(site.of(at, APP_PORT));
        let other = other.listen([site.of(HOST, OTHER_PORT)]);
        let other = other.args(plan.path.args()).args(OTHER.args());
        let other = other.args(args).start()?;
        let balancers = [site.balancer()?, site.balancer()?];
        balancers[1].connect(site.of(HOST, OTHER_PORT))?;
        Ok(Self {
            other,
            site,
            balancers,
        })
    }

    /// By each, words that the app hears of its client.
    fn ask(&self, words: &[u8]) -> Result<[Vec<u8>; 2]> {
        let Self {
            site, balancers, ..
        } = self;
        let header = OTHER.header(site.client(OTHERS_CLIENT), site.front());
        balancers[0].send(&[&site.header(CLIENT)[..], words].concat())?;
        site.app_got(CLIENT, words)?;
        let to_other = [&header, words].concat();
        balancers[1].send(&to_other)?;
        site.app_got(OTHERS_CLIENT, words)?;
        Ok([words.to_vec(), to_other])
    }

    /// Of both instances.
    fn orphans(&self) -> Result<u64> {
        let own = self.site.lab.instance();
        let count = |instance: &str| -> Result<u64> {
            let line = ["status", "--json", "--instance", instance];
            let said = self.site.lab.truepeer_raw(&line)?;
            let status: Value = serde_json::from_str(&said.text)?;
            let count = status["kernel"]["datagram_orphan"].as_u64();
            Ok(count.unwrap_or_default())
        };
        Ok(count(own)? + count(&format!("{own}{SUFFIX}"))?)
    }

    /// The lab is the site's, and has to see nothing of the other one.
    fn end(self) -> Result<()> {
        drop(self.other);
        self.site.end()
    }
}

fn told_that_there_are_outsiders(plan: Plan<'_>) -> Result<()> {
    for at in [HOST, LOOPBACK] {
        let both = Both::start(plan, at, &["--outsiders", "app"])?;
        for words in [&b"hello"[..], &[7; 4000]] {
            let expected = both.ask(words)?;
            for (balancer, expected) in both.balancers.iter().zip(expected) {
                let (answer, _) = datagram::receive(balancer)?;
                ensure!(answer == expected, "{} bytes", answer.len());
            }
        }
        ensure!(both.orphans()? == 0, "an answer was dropped");
        both.end()?;
    }
    Ok(())
}

/// As is the default for an app at a loopback address: one drops what the app has to say to clients of the other's,
/// or both do.
fn both_refuse_outsiders(plan: Plan<'_>) -> Result<()> {
    for (at, args) in [(HOST, &["--outsiders", "refuse"][..]), (LOOPBACK, &[])] {
        let both = Both::start(plan, at, args)?;
        let expected = both.ask(b"hello")?;
        let (mut answered, mut dropped) = (0, 0);
        poll::until("each answer to come or be dropped", || {
            for (balancer, expected) in both.balancers.iter().zip(&expected) {
                balancer.set_nonblocking(true)?;
                if let Ok((answer, _)) = datagram::receive(balancer) {
                    ensure!(answer == *expected, "{} bytes", answer.len());
                    answered += 1;
                }
            }
            dropped = both.orphans()?;
            Ok((answered + dropped == 2).then_some(()))
        })?;
        ensure!(dropped > 0, "both were answered");
        drop(both.other);
        both.site.leaks.saw_none()?;
    }
    Ok(())
}
