//! Payloads of all sizes, behind headers of all lengths: every byte is right.

use std::net::{SocketAddr, UdpSocket};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::HOST;
use crate::lab::datagram::{self, Framing};
use crate::lab::path::Path;
use crate::lab::payload::Payload;
use crate::lab::{self, Lab};

rows! {
    each_framing;
    from_the_host_s_address;
    header_lengths;
    without_offloads;
    many_at_once;
    many_at_once_to_a_long_header;
    many_answers_at_once;
    many_answers_without_offloads;
}

/// Of the lab's links.
const MTU: usize = 1500;
/// Of an IP packet. IPv6 doesn't count its header.
const LARGEST: usize = 65_535;
const UDP_HEADER: usize = 8;

fn words_of(size: usize) -> Vec<u8> {
    static WORDS: LazyLock<Payload> = LazyLock::new(|| Payload::new(80));
    WORDS.piece(0, size).to_vec()
}

/// Of what is said behind a header of this length, up to the longest that a datagram takes with it.
fn sizes(site: &Site, header: usize) -> Vec<usize> {
    let header = header + UDP_HEADER;
    let ends = [site.service(), site.client(0)];
    let bounds = ends.map(|end| match end {
        SocketAddr::V4(_) => (MTU - 20 - header, LARGEST - 20 - header),
        SocketAddr::V6(_) => (MTU - 40 - header, LARGEST - header),
    });
    let [largest, other] = bounds.map(|(_, largest)| largest);
    let largest = largest.min(other);
    let mut sizes = vec![0, 1, 2, 3, 512, 8192, largest - 1, largest];
    sizes.extend(bounds.into_iter().flat_map(|(edge, _)| edge - 2..=edge + 2));
    sizes
}

/// The same there and back, as a reply is as long as its own header leaves room.
fn sizes_both_ways(site: &Site, header: usize) -> Vec<usize> {
    let reply = site.framing.reply_header(site.client(1000), site.front());
    let there = sizes(site, header);
    let longest = there.iter().copied().max();
    let back = sizes(site, reply.len()).into_iter();
    let back = back.filter(|size| Some(*size) <= longest);
    there.iter().copied().chain(back).collect()
}

fn all(plan: Plan<'_>) -> Result<()> {
    for framing in Framing::ALL {
        let site = Plan { framing, ..plan }.start()?;
        let header = site.header(1000);
        let mut port = 1000;
        let mut open = Vec::new();
        for size in sizes_both_ways(&site, header.len()) {
            // A balancer's socket for each, as v2-first knows them by it: all stay open, lest one gets the
            // port of another.
            let balancer = site.balancer()?;
            port += 1;
            let words = words_of(size);
            site.exchange(&balancer, port, &words)
                .with_context(|| format!("{size} bytes by {framing:?}"))?;
            open.push(balancer);
        }
        if framing == Framing::V2First {
            without_a_header(&site, &open[0], 1001)?;
        }
        site.end()?;
    }
    Ok(())
}

/// What comes behind a first datagram has room for more.
fn without_a_header(site: &Site, balancer: &UdpSocket, port: u16) -> Result<()> {
    for size in sizes(site, 0) {
        site.exchange_with(balancer, &[], port, &words_of(size))
            .with_context(|| format!("{size} bytes without a header"))?;
    }
    Ok(())
}

pub fn each_framing(plan: Plan<'_>) -> Result<()> {
    all(plan)
}

fn from_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    all(plan.app_at(HOST))
}

/// With TLVs of unknown types, over what the programs read and under the default limit.
pub fn header_lengths(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    for extra in [3_u16, 4, 5, 64, 65, 197, 198, 199, 200, 300, 1001] {
        let value = extra - 3;
        let mut tlv = vec![0xe1];
        tlv.extend(value.to_be_bytes());
        tlv.resize(usize::from(extra), 7);
        let header = datagram::v2(site.client(1000), site.front(), &tlv);
        // One of an even number of bytes, and one of an odd one, with all sizes.
        let sizes = match extra {
            64 | 65 => sizes_both_ways(&site, header.len()),
            _ => vec![0, 1, 2, 300, 301],
        };
        for size in sizes {
            let words = words_of(size);
            site.exchange_with(&balancer, &header, 1000, &words)
                .with_context(|| format!("{size} bytes behind TLVs of {extra}"))?;
        }
    }
    site.end()
}

/// Of all of the above.
fn without_offloads(plan: Plan<'_>) -> Result<()> {
    let set_up = &switch_offloads_off;
    all(Plan { set_up, ..plan })?;
    header_lengths(Plan { set_up, ..plan })
}

pub fn switch_offloads_off(lab: &Lab) -> Result<()> {
    for netns in [&lab.edge, &lab.host] {
        for device in netns.devices()? {
            if device != "lo" {
                netns.run(&format!(
                    "ethtool -K {device} tx off rx off gso off gro off"
                ))?;
            }
        }
    }
    Ok(())
}

/// What the kernel handles as one (UDP_SEGMENT), each of this length with its header and the last one shorter.
fn send_many(site: &Site, header: &[u8], length: usize) -> Result<()> {
    const MANY: usize = 20;
    let balancer = site.balancer()?;
    datagram::segment(&balancer, u16::try_from(length)?)?;
    let is_first = |at| at == 0 || site.framing != Framing::V2First;
    let header_of = |at| if is_first(at) { header } else { &[] };
    let (mut all, mut each) = (Vec::new(), Vec::new());
    for at in 0..MANY {
        let room = length - header_of(at).len();
        let size = if at + 1 == MANY { room / 2 } else { room };
        let words = Payload::new(at.try_into()?).piece(0, size).to_vec();
        all.extend([header_of(at), &words].concat());
        each.push(words);
    }
    balancer.send(&all)?;
    for words in each {
        site.app_got(1000, &words)?;
        site.answered(&balancer, 1000, &words)?;
    }
    Ok(())
}

/// Nothing of it has gone by the daemon, where there is another path.
fn end(site: Site) -> Result<()> {
    if site.path == Path::Direct {
        let kernel = site.lab.shown("status")?["kernel"].take();
        for name in ["datagram_to_daemon_many", "datagram_reply_many"] {
            ensure!(kernel[name] == 0, "{kernel:#}");
        }
    }
    site.end()
}

pub fn many_at_once(plan: Plan<'_>) -> Result<()> {
    for framing in Framing::ALL {
        let site = Plan { framing, ..plan }.start()?;
        for length in [120, 121, 1400] {
            send_many(&site, &site.header(1000), length)
                .with_context(|| format!("{length} bytes by {framing:?}"))?;
        }
        end(site)?;
    }
    Ok(())
}

fn many_at_once_to_a_long_header(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut tlv = vec![0xe1, 0, 100];
    tlv.resize(103, 7);
    let header = datagram::v2(site.client(1000), site.front(), &tlv);
    send_many(&site, &header, 500)?;
    end(site)
}

pub fn many_answers_at_once(plan: Plan<'_>) -> Result<()> {
    for framing in Framing::ALL {
        let site = Plan { framing, ..plan }.start()?;
        answers_many(&site)?;
        end(site)?;
    }
    Ok(())
}

fn answers_many(site: &Site) -> Result<()> {
    for length in [100_u16, 701, 1300] {
        site.app.segment(length)?;
        let balancer = site.balancer()?;
        let words = words_of(5 * usize::from(length) / 2);
        balancer.send(&[&site.header(1000)[..], &words].concat())?;
        site.app_got(1000, &words)?;
        for part in words.chunks(length.into()) {
            site.answered(&balancer, 1000, part)?;
        }
    }
    Ok(())
}

/// The kernel can't take those apart on their way that have no sum yet and aren't marked so.
fn many_answers_without_offloads(plan: Plan<'_>) -> Result<()> {
    if !lab::is_at_least(6, 11)? {
        // An application can't send as many there.
        return Ok(());
    }
    let set_up = &switch_offloads_off;
    for plan in [plan, plan.clients_of_other()] {
        for framing in Framing::ALL {
            let plan = Plan {
                framing,
                set_up,
                ..plan
            };
            let site = plan.start()?;
            site.exchange(&site.balancer()?, 999, b"by itself")?;
            answers_many(&site).with_context(|| format!("{framing:?}"))?;
            site.end()?;
        }
    }
    Ok(())
}
