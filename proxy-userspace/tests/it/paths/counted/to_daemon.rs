//! Why a connection isn't direct.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::Times::{AtLeast, Once};
use super::{Counting, Row, Site, frames};
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT, LOOPBACK, OTHER_CLIENT, Pair};
use crate::lab::header::{Version, v2, v2_raw};
use crate::lab::poll;
use crate::lab::stream::has_closed;
use crate::lab::talk::Talk;
use crate::paths::headers::after_one_segment;
use crate::paths::reflection::Attacker;
use crate::steering::site::sysctl;

pub const ROWS: &[Row<Site>] = &[
    Row("to_daemon_service", Once, host_without_syn_cookies),
    Row("to_daemon_syn", Once, unknown_option),
    Row("to_daemon_syn", Once, segments_too_small),
    Row("to_daemon_syn", Once, syn_with_data),
    Row("to_daemon_route", AtLeast(1), syn_from_another_link),
    Row("to_daemon_taken", Once, syn_in_a_connection_of_the_daemon_s),
    Row("to_daemon_pending", Once, another_syn_without_timestamps),
    Row("to_daemon_split", Once, header_in_two_segments),
    Row("to_daemon_header", Once, local),
    Row("to_daemon_header", Once, not_a_header),
    Row("to_daemon_family", Once, client_of_the_other_family),
    Row("to_daemon_client", Once, martian),
    Row("to_daemon_denied", Once, denied),
    Row("to_daemon_busy", Once, client_that_is_there),
    Row("to_daemon_silent", Once, close_without_a_header),
    Row("to_daemon_listener", Once, app_that_has_just_gone),
];

fn host_without_syn_cookies(site: &Site, port: u16) -> Result<()> {
    let set = |value: &str, path: &str| {
        sysctl(&site.lab.host, "ipv4/tcp_syncookies", value)?;
        poll::until("the other path", || {
            let status = site.lab.shown("status")?;
            let paths = status["services"][0]["paths"].as_array();
            let paths = paths.context("paths")?;
            Ok(paths.iter().all(|one| one["path"] == path).then_some(()))
        })
    };
    set("0", "daemon")?;
    let talk = site.open(port);
    set("1", "direct")?;
    talk.map(drop)
}

/// An MSS, and an option of RFC 6994, for experiments.
const EXPERIMENT: &[u8] = &[2, 4, 5, 0xb4, 253, 4, 0, 0];
const SMALL: &[u8] = &[2, 4, 2, 0];

fn unknown_option(site: &Site, port: u16) -> Result<()> {
    let mut syn = frames::syn(site, port);
    syn.options = EXPERIMENT;
    frames::send(site, syn)
}

fn segments_too_small(site: &Site, port: u16) -> Result<()> {
    let mut syn = frames::syn(site, port);
    syn.options = SMALL;
    frames::send(site, syn)
}

fn syn_with_data(site: &Site, port: u16) -> Result<()> {
    let mut syn = frames::syn(site, port);
    syn.payload = b"early";
    frames::send(site, syn)
}

fn syn_from_another_link(site: &Site, port: u16) -> Result<()> {
    let attacker = Attacker::beside(&site.lab)?;
    let counting = Counting::start(&site.lab, "to_daemon_route")?;
    // The programs come to a new link some time after it.
    poll::until("a SYN to be seen", || {
        attacker.spray.send([frames::syn(site, port)])?;
        Ok((counting.so_far()? > 0).then_some(()))
    })
}

fn syn_in_a_connection_of_the_daemon_s(site: &Site, _: u16) -> Result<()> {
    let counting = Counting::start(&site.lab, "to_daemon_taken")?;
    let mut balancer = site.connect(0)?;
    balancer.write_all(&v2_raw(0x20, 0, &[]))?;
    let _app = site.app.accept()?;
    frames::send(site, frames::syn(site, balancer.local_addr()?.port()))?;
    counting.wait(Once)
}

/// Of one port, with another number, before the first one is forgotten.
fn another_syn_without_timestamps(site: &Site, port: u16) -> Result<()> {
    const MSS: &[u8] = &[2, 4, 5, 0xb4];
    for number in [1000, 2000] {
        let mut syn = frames::syn(site, port);
        (syn.options, syn.number) = (MSS, number);
        frames::send(site, syn)?;
    }
    Ok(())
}

fn header_in_two_segments(site: &Site, port: u16) -> Result<()> {
    let header = site.header(Version::V2, port);
    let (first, rest) = header.split_at(20);
    let mut balancer = after_one_segment(site, first)?;
    balancer.write_all(rest)?;
    Talk::accept(balancer, &site.app, site.client(port)).map(drop)
}

fn local(site: &Site, _: u16) -> Result<()> {
    let mut balancer = site.connect(0)?;
    balancer.write_all(&v2_raw(0x20, 0, &[]))?;
    site.app.accept().map(drop)
}

fn not_a_header(site: &Site, _: u16) -> Result<()> {
    let mut balancer = site.connect(0)?;
    balancer.write_all(b"GET / HTTP/1.1\r\nHost: there.example\r\n\r\n")?;
    ensure!(has_closed(&mut balancer), "it was taken");
    site.app.saw_nobody()
}

/// For which there is no target: the daemon refuses it.
fn client_of_the_other_family(site: &Site, port: u16) -> Result<()> {
    let is_v4 = site.service().is_ipv4();
    let family = if is_v4 { Pair::v6 } else { Pair::v4 };
    refused(site, family(CLIENT, port), family(FRONT, FRONT_PORT))
}

fn martian(site: &Site, port: u16) -> Result<()> {
    refused(site, site.of(LOOPBACK, port), site.of(FRONT, FRONT_PORT))
}

fn denied(site: &Site, port: u16) -> Result<()> {
    let client = site.of(OTHER_CLIENT, port);
    let address = client.ip().to_string();
    let deny = |verb| -> Result<()> {
        let args = ["deny", verb, &address, "--instance", site.lab.instance()];
        site.lab.truepeer_raw(&args)?.expect(0, &[&address])
    };
    deny("add")?;
    refused(site, client, site.of(FRONT, FRONT_PORT))?;
    deny("remove")
}

fn refused(site: &Site, client: SocketAddr, front: SocketAddr) -> Result<()> {
    let mut balancer = site.connect(0)?;
    balancer.write_all(&v2(0x21, client, front, &[]))?;
    ensure!(has_closed(&mut balancer), "{client} was taken");
    Ok(())
}

fn client_that_is_there(site: &Site, port: u16) -> Result<()> {
    let counting = Counting::start(&site.lab, "to_daemon_busy")?;
    let mut first = site.open(port)?;
    let mut second = site.connect(0)?;
    second.write_all(&site.header(Version::V2, port))?;
    counting.wait(Once)?;
    first.ping_pong(1, 100)
}

fn close_without_a_header(site: &Site, _: u16) -> Result<()> {
    let mut balancer = site.connect(0)?;
    balancer.shutdown(Shutdown::Write)?;
    ensure!(has_closed(&mut balancer), "it goes on");
    Ok(())
}

/// Since the balancer has connected.
pub fn app_that_has_just_gone(site: &Site, port: u16) -> Result<()> {
    let mut balancer = site.connect(0)?;
    site.app.stop()?;
    balancer.write_all(&site.header(Version::V2, port))?;
    ensure!(has_closed(&mut balancer), "it was taken");
    site.app.resume()
}
