//! What the programs do for connections that the daemon relays.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use proxy_common::VETH_MAC;

use super::Times::{AtLeast, Once};
use super::to_daemon::app_that_has_just_gone;
use super::{Row, Site, opens, talks};
use crate::lab::addr::{APP_PORT, NEIGHBOUR};
use crate::lab::forge::{SYN, Segment};
use crate::lab::netns::Netns;
use crate::lab::raw;
use crate::paths::firewalls;

pub const ROWS: &[Row<Site>] = &[
    // Once it was looked for, the kernel finds the app by itself.
    Row("deliver_assigned", Once, opens),
    Row("deliver_found", Once, opens),
    Row("dispatch_accepted", AtLeast(1), opens),
    Row("dispatch_refused", Once, is_not_allowed),
    Row("inject_steered", AtLeast(16), talks),
    Row("reply_steered", AtLeast(16), talks),
    Row("deliver_no_listener", Once, app_that_has_just_gone),
    Row("deliver_no_target", Once, another_port_of_the_steer_address),
    // The namespace looks for routers as well.
    Row("inject_stray", AtLeast(1), nobody_s_packet),
    // The last, as the host isn't what it was.
    Row("reply_renamed", AtLeast(1), is_masqueraded),
];

/// Of hosts and routers that speak ARP.
pub const V4: &[Row<Site>] = &[Row("reply_arp", AtLeast(1), has_to_look_for_its_router)];

fn has_to_look_for_its_router(site: &Site, port: u16) -> Result<()> {
    let mut talk = site.open(port)?;
    site.lab.host.ip("neigh flush dev edge")?;
    Ok(talk.app.write_all(b"who is the way?")?)
}

fn is_masqueraded(site: &Site, port: u16) -> Result<()> {
    let mut talk = site.open(port)?;
    firewalls::masquerade(&site.lab)?;
    Ok(talk.app.write_all(b"whom do they come from?")?)
}

fn is_not_allowed(site: &Site, _: u16) -> Result<()> {
    let stranger = site.of(NEIGHBOUR, 0);
    let attempt = site.lab.edge.connect_from(stranger, site.service());
    let kind = attempt.err().map(|error| error.kind());
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "{kind:?}");
    Ok(())
}

/// Which the daemon has told nobody: an app of another connection says it.
fn steered(site: &Site, port: u16) -> Result<SocketAddr> {
    Ok(site.open(port)?.app.local_addr()?)
}

/// To the host, from where the daemon's workers are.
pub fn send(site: &Site, frame: &[u8]) -> Result<()> {
    let spoof = Netns::of_threads("spoof", site.truepeer.pid())?;
    let devices = spoof.devices()?;
    let device = devices.iter().find(|name| *name != "lo");
    let socket = raw::sender(&spoof, device.context("a device")?)?;
    socket.send(frame)?;
    Ok(())
}

fn another_port_of_the_steer_address(site: &Site, port: u16) -> Result<()> {
    let mut to = steered(site, port)?;
    to.set_port(APP_PORT + 1);
    let syn = Segment {
        flags: SYN,
        ..Segment::between(site.client(port), to)
    };
    send(site, &syn.frame([VETH_MAC; 2]))
}

/// Of a protocol that nobody speaks.
fn nobody_s_packet(site: &Site, _: u16) -> Result<()> {
    send(site, &[0x88; 64])
}
