//! Payloads of all sizes, behind headers of all lengths: every byte is right.

use anyhow::{Context, Result};

use super::rows;
use super::site::Plan;
use crate::lab::addr::HOST;
use crate::lab::datagram::{self, Framing};
use crate::lab::payload::Payload;

rows! {
    each_framing;
    from_the_host_s_address;
    header_lengths;
    without_offloads;
}

/// Of the lab's links.
const MTU: usize = 1500;
/// Of an IPv6 packet's payload.
const LARGEST: usize = 65_535 - 40 - 8;

fn words_of(size: usize) -> Vec<u8> {
    Payload::new(80).piece(0, size).to_vec()
}

fn sizes(headers: usize) -> Vec<usize> {
    let edge = MTU - headers;
    let mut sizes = vec![0, 1, 2, 3, 512, 8192, LARGEST - headers];
    sizes.extend(edge - 2..=edge + 2);
    sizes
}

fn all(plan: Plan<'_>) -> Result<()> {
    for framing in Framing::ALL {
        let site = Plan { framing, ..plan }.start()?;
        let header = site.header(1000);
        let ip = if site.service().is_ipv4() { 28 } else { 48 };
        // A reply is as long as its own header and IP's leave room.
        let reply = framing.reply_header(site.client(1000), site.front()).len();
        let more = [sizes(ip + header.len()), sizes(ip + reply)].concat();
        let mut port = 1000;
        let mut open = Vec::new();
        for size in more
            .into_iter()
            .filter(|size| *size <= LARGEST - header.len() - ip)
        {
            // A balancer's socket for each, as v2-first knows them by it: all stay open, lest one gets the
            // port of another.
            let balancer = site.balancer()?;
            port += 1;
            let words = words_of(size);
            site.exchange(&balancer, port, &words)
                .with_context(|| format!("{size} bytes by {framing:?}"))?;
            open.push(balancer);
        }
        site.end()?;
    }
    Ok(())
}

fn each_framing(plan: Plan<'_>) -> Result<()> {
    all(plan)
}

fn from_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    let (target, bind) = (HOST, HOST);
    all(Plan {
        target,
        bind,
        ..plan
    })
}

/// With TLVs of unknown types, over what the programs read and under the default limit.
fn header_lengths(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    for extra in [3_u16, 4, 5, 64, 65, 197, 198, 199, 200, 300, 1001] {
        let value = extra - 3;
        let mut tlv = vec![0xe1];
        tlv.extend(value.to_be_bytes());
        tlv.resize(usize::from(extra), 7);
        let header = datagram::v2(site.client(1000), site.front(), &tlv);
        for size in [0, 1, 2, 300, 301] {
            let words = words_of(size);
            site.exchange_with(&balancer, &header, 1000, &words)
                .with_context(|| format!("{size} bytes behind TLVs of {extra}"))?;
        }
    }
    site.end()
}

fn without_offloads(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    for netns in [&site.lab.edge, &site.lab.host] {
        for device in netns.devices()? {
            if device != "lo" && !device.starts_with("truepeer") {
                netns.run(&format!(
                    "ethtool -K {device} tx off rx off gso off gro off"
                ))?;
            }
        }
    }
    let balancer = site.balancer()?;
    for size in [0, 1, 2, 3, 512, 1400, 8192] {
        let words = words_of(size);
        site.exchange(&balancer, 1000, &words)
            .with_context(|| format!("{size} bytes"))?;
    }
    site.end()
}
