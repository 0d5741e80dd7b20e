//! Many clients behind one socket of a balancer's.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::datagram::{self, Framing};
use crate::lab::scale::scaled;

rows! {
    each_is_seen_and_answered;
}

/// Of the clients.
const PORTS: Range<u16> = 1000..1064;

/// What v2-first has is a socket for each.
fn each_is_seen_and_answered(plan: Plan<'_>) -> Result<()> {
    let exchanges = scaled(2_000, 10_000);
    for framing in [Framing::V2, Framing::Spp] {
        let site = Plan { framing, ..plan }.start()?;
        let balancer = site.balancer()?;
        for round in 0..=exchanges / PORTS.len() {
            all_ask(&site, &balancer, round).with_context(|| format!("{framing:?}, {round}"))?;
        }
        site.end()?;
    }
    Ok(())
}

fn all_ask(site: &Site, balancer: &UdpSocket, round: usize) -> Result<()> {
    let words = |port| format!("{round} of {port}");
    for port in PORTS {
        balancer.send(&[&site.header(port)[..], words(port).as_bytes()].concat())?;
    }
    let expected = |head: &dyn Fn(u16) -> Vec<u8>| -> BTreeMap<_, _> {
        let each = |port| ([&head(port)[..], words(port).as_bytes()].concat(), 1);
        PORTS.map(each).collect()
    };
    let (mut heard, mut answers) = (BTreeMap::new(), BTreeMap::new());
    for _ in PORTS {
        let (client, said) = site.app.next()?;
        let whose = client.to_string().into_bytes();
        *heard.entry([whose, said].concat()).or_insert(0) += 1;
    }
    for _ in PORTS {
        let (answer, _) = datagram::receive(balancer)?;
        *answers.entry(answer).or_insert(0) += 1;
    }
    let client = |port| site.client(port).to_string().into_bytes();
    ensure!(heard == expected(&client), "the app heard others");
    // SPP says whose each answer is; of v2, the answer's words do.
    let header = |port| site.framing.reply_header(site.client(port), site.front());
    ensure!(answers == expected(&header), "others were answered");
    Ok(())
}
