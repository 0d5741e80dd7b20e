//! Packets that come with the sum of all their bytes, CHECKSUM_COMPLETE: some cards sum them up, and so
//! does a tunnel that has a checksum of its own, for what comes out of it.
//!
//! Whoever changes such a packet has to keep its sum right. If it isn't, the kernel quietly makes
//! another one, and nobody notices. So here a byte changes behind the sum's back, while a packet goes
//! through a bridge: the segment is taken only if the sum that it came with is still believed.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

use super::site::{Plan, Site};
use super::{CLIENT_PORT, MIB, paths};
use crate::lab::header::Version;
use crate::lab::lossy::Nature;
use crate::lab::stream::expect;
use crate::lab::talk::{Side, Talk};
use crate::lab::tuntap::Layer;
use crate::lab::{Lab, counters};
use crate::steering::site::{ip, nft};

paths! {
    summed_by_a_tunnel;
}

/// A segment of its own, in which the bridge changes a byte.
pub const MESSAGE: [u8; 1200] = [b'a'; 1200];
pub const CHANGED: u8 = b'X';
/// Of four digits: its v1 header is one byte shorter.
const SHORT_PORT: u16 = 9030;

fn summed_by_a_tunnel(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        set_up: &tunnel_with_changes,
        // Its devices leave no checksum to be made later, which they would otherwise never be.
        wire: Some(Nature::sound(Layer::Tap)),
        ..plan
    }
    .start()?;
    for port in [CLIENT_PORT, SHORT_PORT] {
        for version in Version::BOTH {
            believed(&site, version, port).with_context(|| format!("{version:?} and {port}"))?;
        }
    }
    nft(&site.lab.host, "delete table bridge behind")?;
    let mut talk = site.warm(CLIENT_PORT + 1)?;
    talk.ping_pong(64, 1000)?;
    talk.transfer(&Side::BOTH, 4 * MIB).context("in bulk")?;
    for netns in [&site.lab.edge, &site.lab.host] {
        let wrong = counters::tcp(netns, "InCsumErrors")?;
        ensure!(wrong == 0, "{wrong} segments with a wrong checksum");
    }
    Ok(())
}

/// Both of what follows.
pub fn tunnel_with_changes(lab: &Lab) -> Result<()> {
    tunnel(lab)?;
    change(lab)
}

/// The balancer's and the host's addresses are those of a tunnel's ends; the host's end is a bridge's
/// port, whose packets aren't for itself.
fn tunnel(lab: &Lab) -> Result<()> {
    for (netns, link, [own, other]) in [(&lab.edge, "host", [1, 2]), (&lab.host, "edge", [2, 1])] {
        ip(
            netns,
            &format!(
                "address flush dev {link}
                 address add 192.0.2.{own}/24 dev {link}
                 link add tunnel type vxlan id 5 dev {link} local 192.0.2.{own} \
                 remote 192.0.2.{other} dstport 4789 udpcsum
                 link set tunnel up addrgenmode none"
            ),
        )?;
    }
    ip(
        &lab.edge,
        "address add fe80::1/64 dev tunnel nodad
         address add 198.51.100.1/24 dev tunnel
         address add 2001:db8:e::1/64 dev tunnel nodad",
    )?;
    ip(
        &lab.host,
        "link add bridge address 02:00:00:00:00:02 type bridge
         link set tunnel master bridge
         link set bridge up addrgenmode none
         address add fe80::2/64 dev bridge nodad
         address add 198.51.100.2/24 dev bridge
         address add 2001:db8:e::2/64 dev bridge nodad
         route replace default via 198.51.100.1
         -6 route replace default via 2001:db8:e::1",
    )
}

/// Writes [`CHANGED`] into what is as long as a [`MESSAGE`], and leaves the sum as it was.
fn change(lab: &Lab) -> Result<()> {
    nft(
        &lab.host,
        &format!(
            "add table bridge behind
             add chain bridge behind pre {{ type filter hook prerouting priority 0 ; }}
             add rule bridge behind pre meta length > {} @nh,1600,8 set {CHANGED}",
            MESSAGE.len()
        ),
    )
}

/// The first words come as they are: the kernel drops a sum when a packet gets shorter, and makes its
/// own of what is left.
fn believed(site: &Site, version: Version, port: u16) -> Result<()> {
    const WORDS: &[u8] = b"first words";
    let mut balancer = site.connect(0)?;
    balancer.write_all(&[&site.header(version, port), WORDS].concat())?;
    let mut talk = Talk::accept(balancer, &site.app, site.client(port))?;
    expect(&mut talk.app, WORDS)?;
    site.lab.wait_path(&talk, site.path)?;
    for _ in 0..16 {
        talk.balancer.write_all(&MESSAGE)?;
        comes_changed(&mut talk.app)?;
        talk.app.write_all(&MESSAGE)?;
        expect(&mut talk.balancer, &MESSAGE)?;
    }
    talk.close(Side::Balancer)
}

/// A message in which one byte is another: it came, though no checksum of its bytes is right.
fn comes_changed(app: &mut TcpStream) -> Result<()> {
    let mut got = MESSAGE;
    app.read_exact(&mut got).context("reading a message")?;
    let changed = got.iter_mut().find(|byte| **byte == CHANGED);
    *changed.context("the bridge has changed nothing")? = MESSAGE[0];
    ensure!(got == MESSAGE, "more has changed: {got:?}");
    Ok(())
}
