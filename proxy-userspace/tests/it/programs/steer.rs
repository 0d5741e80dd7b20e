//! Between the host and the spoof namespace.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use proxy_common::{LO_MAC, VETH_MAC, mark};

use super::bench::{Bench, DROP, FAMILIES, NEXT, Packet, REDIRECT};
use super::foreign::untouched;
use super::frame::{ETHERNET, from_to};
use crate::lab::addr::{APP_PORT, BALANCER, CLIENT, HOST, OTHER_CLIENT, Pair};
use crate::lab::forge::{ACK, SYN, SYN_OPTIONS};
use crate::lab::path::Path;
use crate::lab::spray::NOBODYS;

const PORT: u16 = 27_000;
const LO: u32 = 1;

#[test]
fn by_the_daemon() -> Result<()> {
    let bench = &Bench::start(Path::Daemon)?;
    replies_go_to_the_spoof_namespace(bench)?;
    routers_are_asked_for_by_an_address_of_the_host(bench)?;
    what_leaves_the_spoof_namespace_is_for_apps_alone(bench)?;
    deliveries_find_the_app(bench)
}

#[test]
fn beside_direct_connections() -> Result<()> {
    let bench = &Bench::start(Path::Direct)?;
    replies_go_to_the_spoof_namespace(bench)
}

/// Also of what is no TCP, and of connections that nobody knows: nothing of a steer address may leave.
fn replies_go_to_the_spoof_namespace(bench: &Bench) -> Result<()> {
    for family in FAMILIES {
        let steered = bench.steered(family)?;
        let segment = from_to(steered, family(OTHER_CLIENT, PORT), SYN | ACK);
        let sent = segment.frame([NOBODYS, bench.hosts_mac]);
        let mut udp = sent.clone();
        udp[ETHERNET + if steered.is_ipv4() { 9 } else { 6 }] = 17;
        for sent in [sent, udp] {
            let packet = bench.at_the_uplink(&sent);
            let (ran, counted) = bench.count("reply", packet)?;
            ensure!(counted == ["reply_steered"], "counted {counted:?}");
            ensure!(ran.code == REDIRECT, "returned {}", ran.code);
            let macs = [VETH_MAC, VETH_MAC].concat();
            ensure!(ran.frame == [&macs, &sent[12..]].concat(), "another frame");
        }
        let foreign = from_to(family(HOST, APP_PORT), family(OTHER_CLIENT, PORT), ACK);
        untouched(bench, "reply", &foreign.frame([NOBODYS, bench.hosts_mac]))?;
    }
    Ok(())
}

fn routers_are_asked_for_by_an_address_of_the_host(bench: &Bench) -> Result<()> {
    const REQUEST: u8 = 1;
    const ANSWER: u8 = 2;
    let v4 = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    let [host, steered] = [HOST.v4(0), bench.steered(Pair::v4)?].map(v4);
    let arp = |operation, sender: [u8; 4]| {
        let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation];
        let macs = [NOBODYS, bench.hosts_mac].concat();
        let router = v4(BALANCER.v4(0));
        let asks = [&bench.hosts_mac[..], &sender, &[0; 6], &router].concat();
        [&macs[..], &head, &asks].concat()
    };
    let (ran, counted) = bench.count("reply", bench.at_the_uplink(&arp(REQUEST, steered)))?;
    ensure!(counted == ["reply_arp"], "counted {counted:?}");
    ensure!(ran.code == NEXT, "returned {}", ran.code);
    ensure!(ran.frame == arp(REQUEST, host), "another frame");
    untouched(bench, "reply", &arp(REQUEST, host))?;
    untouched(bench, "reply", &arp(ANSWER, steered))
}

fn what_leaves_the_spoof_namespace_is_for_apps_alone(bench: &Bench) -> Result<()> {
    for family in FAMILIES {
        let client = family(CLIENT, PORT);
        for to in [family(HOST, APP_PORT), family(OTHER_CLIENT, PORT)] {
            let stray = from_to(client, to, SYN).frame([VETH_MAC, VETH_MAC]);
            let (ran, counted) = bench.count("inject", at_the_veth(bench, &stray, 0))?;
            ensure!(ran.code == DROP, "returned {}", ran.code);
            ensure!(counted.contains(&"inject_stray"), "{counted:?}");
        }
        let steered = bench.steered(family)?;
        let sent = from_to(client, steered, SYN).frame([VETH_MAC, VETH_MAC]);
        let (ran, counted) = bench.count("inject", at_the_veth(bench, &sent, 0))?;
        ensure!(ran.code == REDIRECT, "returned {}", ran.code);
        ensure!(counted.contains(&"inject_steered"), "{counted:?}");
        let macs = [LO_MAC, LO_MAC].concat();
        ensure!(ran.frame == [&macs, &sent[12..]].concat(), "another frame");
        // What has our own mark has been looked at.
        let forwarded = at_the_veth(bench, &sent, mark(bench.device));
        let (ran, counted) = bench.count("inject", forwarded)?;
        ensure!(!counted.contains(&"inject_steered"), "{counted:?}");
        ensure!(ran.code == NEXT && ran.frame == sent, "{}", ran.code);
    }
    Ok(())
}

const fn at_the_veth<'a>(bench: &Bench, frame: &'a [u8], mark: u32) -> Packet<'a> {
    Packet {
        frame,
        device: bench.device,
        mark,
    }
}

fn deliveries_find_the_app(bench: &Bench) -> Result<()> {
    for family in FAMILIES {
        let steered = bench.steered(family)?;
        let deliver = |to, flags, mark| -> Result<_> {
            let mut segment = from_to(family(CLIENT, PORT), to, flags);
            segment.options = SYN_OPTIONS;
            let frame = segment.frame([LO_MAC; 2]);
            let device = LO;
            let packet = Packet {
                frame: &frame,
                device,
                mark,
            };
            let (ran, counted) = bench.count("deliver", packet)?;
            ensure!(ran.code == NEXT && ran.frame == frame, "{}", ran.code);
            Ok(counted)
        };
        let ours = mark(bench.device);
        let mut elsewhere = steered;
        elsewhere.set_port(APP_PORT + 1);
        ensure!(deliver(steered, SYN, 0)?.is_empty(), "without a mark");
        ensure!(
            deliver(steered, SYN, ours ^ 1)?.is_empty(),
            "by another's mark"
        );
        ensure!(deliver(steered, ACK, ours)?.is_empty(), "not the first one");
        let found = deliver(steered, SYN, ours)?;
        // It was looked for before, by the connection that is open.
        ensure!(found == ["deliver_found"], "{found:?}");
        let nowhere = deliver(elsewhere, SYN, ours)?;
        ensure!(nowhere == ["deliver_no_target"], "{nowhere:?}");
    }
    bench.apps.iter().try_for_each(|app| app.stop())?;
    for family in FAMILIES {
        let steered = bench.steered(family)?;
        let sent = from_to(family(CLIENT, PORT), steered, SYN).frame([LO_MAC; 2]);
        let packet = Packet {
            frame: &sent,
            device: LO,
            mark: mark(bench.device),
        };
        let (_, counted) = bench.count("deliver", packet)?;
        ensure!(counted == ["deliver_no_listener"], "{counted:?}");
    }
    Ok(())
}
