//! Uplinks of every kind, and those that come and go.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::site::{ip, more_changes_than_netlink_keeps, second_uplink};
use super::{Bound, CLIENT_PORT, LOOPBACK_V4, Talk, WILDCARD_V6, datagrams, holds, rows, sees};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, BALANCER, CLIENT, HOST, TRUEPEER_PORT, WILDCARD};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::lossy::{Lossy, Nature};
use crate::lab::netns::Netns;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::tuntap::Layer;

rows! {
    /// Replies leave by a device that has no Ethernet header to overwrite.
    clients_behind_a_tun: tun_uplink => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6;
    macvlan: macvlan_uplink => wildcard_v4 loopback_v4 wildcard_v6 loopback_v6;
    bridge: bridge_uplink => wildcard_v4 loopback_v4 wildcard_v6 loopback_v6;
}

/// Its other end is the edge's, where those look who watch the uplinks.
pub fn tun_uplink(lab: &Lab) -> Result<Lossy> {
    let ends = [(&lab.host, "bare"), (&lab.edge, "bare")];
    let wire = Lossy::join(ends, Nature::sound(Layer::Tun))?;
    ip(&lab.edge, "link set bare up addrgenmode none")?;
    ip(
        &lab.host,
        "link set bare up addrgenmode none
         address add 192.0.2.2/32 dev bare
         -4 route replace default dev bare
         -6 route replace default dev bare",
    )?;
    Ok(wire)
}

/// The default routes leave by a device on top of the uplink.
fn over(lab: &Lab, kind: &str) -> Result<()> {
    for (netns, end, link) in [(&lab.edge, 1, "host"), (&lab.host, 2, "edge")] {
        ip(
            netns,
            &format!(
                "link add link {link} name upper type {kind}
             link set upper up addrgenmode none
             address add fe80::{end}/64 dev upper nodad
             address add 192.0.2.{end}/24 dev upper
             address add 2001:db8:2::{end}/64 dev upper nodad"
            ),
        )?;
    }
    through_192_0_2_1(&lab.host)
}

pub fn through_192_0_2_1(host: &Netns) -> Result<()> {
    ip(
        host,
        "-4 route replace default via 192.0.2.1
         -6 route replace default via 2001:db8:2::1",
    )
}

fn macvlan_uplink(lab: &Lab) -> Result<()> {
    over(lab, "macvlan mode bridge")
}

fn vlan_uplink(lab: &Lab) -> Result<()> {
    over(lab, "vlan id 80")
}

/// A tunnel without Ethernet headers, whose packets go through the same uplink again.
fn wireguard_uplink(lab: &Lab) -> Result<()> {
    let keys = tempfile::tempdir()?;
    let key_file = keys.path().join("key").display().to_string();
    for (netns, end, letter) in [(&lab.edge, 1, "A"), (&lab.host, 2, "B")] {
        // 32 bytes in base64
        fs::write(&key_file, format!("{}E=", letter.repeat(42)))?;
        ip(
            netns,
            &format!(
                "link add upper type wireguard
             link set upper addrgenmode none
             address add 192.0.2.{end}/24 dev upper
             address add 2001:db8:2::{end}/64 dev upper nodad"
            ),
        )?;
        netns.run(&format!(
            "wg set upper listen-port 51820 private-key {key_file}"
        ))?;
    }
    for (netns, peer, end) in [(&lab.edge, &lab.host, 2), (&lab.host, &lab.edge, 1)] {
        let key = peer.run("wg show upper public-key")?;
        netns.run(&format!(
            "wg set upper peer {} endpoint 198.51.100.{end}:51820 allowed-ips 0.0.0.0/0,::/0",
            key.trim()
        ))?;
        ip(netns, "link set upper up")?;
    }
    through_192_0_2_1(&lab.host)
}

/// The uplink is a port of a bridge, which has its addresses.
pub fn bridge_uplink(lab: &Lab) -> Result<()> {
    ip(
        &lab.host,
        "link add name bridge type bridge
         link set bridge up addrgenmode none
         link set edge master bridge
         address flush dev edge
         address add fe80::2/64 dev bridge nodad
         address add 198.51.100.2/24 dev bridge
         address add 2001:db8:e::2/64 dev bridge nodad
         route replace default via 198.51.100.1
         -6 route replace default via 2001:db8:e::1",
    )
}

/// Not every kernel has them. Those of `cargo xtask test --kernel` do, and run these, as CI does.
mod not_in_every_kernel {
    use super::super::{LOOPBACK_V6, WILDCARD_V4};
    use super::*;

    macro_rules! uplinks {
        ($($kind:ident $uplink:ident;)*) => { $(
            mod $kind {
                use super::*;

                #[test]
                #[ignore = "needs a kernel with it: cargo xtask test --kernel 6.12 not_in_every_kernel"]
                fn wildcard_v4() -> Result<()> { holds_for_both(WILDCARD_V4, $uplink) }

                #[test]
                #[ignore = "needs a kernel with it: cargo xtask test --kernel 6.12 not_in_every_kernel"]
                fn loopback_v4() -> Result<()> { holds_for_both(LOOPBACK_V4, $uplink) }

                #[test]
                #[ignore = "needs a kernel with it: cargo xtask test --kernel 6.12 not_in_every_kernel"]
                fn wildcard_v6() -> Result<()> { holds_for_both(WILDCARD_V6, $uplink) }

                #[test]
                #[ignore = "needs a kernel with it: cargo xtask test --kernel 6.12 not_in_every_kernel"]
                fn loopback_v6() -> Result<()> { holds_for_both(LOOPBACK_V6, $uplink) }
            }
        )* };
    }

    fn holds_for_both(app: Bound, uplink: fn(&Lab) -> Result<()>) -> Result<()> {
        holds(app, uplink)?;
        datagrams::hold(app, uplink)
    }

    uplinks! {
        vlan vlan_uplink;
        wireguard wireguard_uplink;
    }
}

mod bulk_at_mtu {
    use super::*;

    macro_rules! mtus {
        ($($size:literal $v4:ident $v6:ident;)*) => { $(
            #[test] fn $v4() -> Result<()> { bulk_at($size, LOOPBACK_V4) }
            #[test] fn $v6() -> Result<()> { bulk_at($size, WILDCARD_V6) }
        )* };
    }

    mtus! {
        1280 of_1280_v4 of_1280_v6;
        1500 of_1500_v4 of_1500_v6;
        9000 of_9000_v4 of_9000_v6;
    }
}

fn bulk_at(mtu: u32, bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    lab.edge.ip(&format!("link set host mtu {mtu}"))?;
    lab.host.ip(&format!("link set edge mtu {mtu}"))?;
    let app = App::listen(&lab.host, bound.to)?;
    let _truepeer = lab.truepeer().targets_for(bound.to).start()?;
    Talk::open(&lab, &app, bound.client, Version::V2)?.bulk()
}

/// An MTU that changes under an open connection.
#[test]
fn mtu_that_shrinks_meanwhile() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK_V4.to)?;
    let _truepeer = lab.truepeer().start()?;
    let mut talk = Talk::open(&lab, &app, LOOPBACK_V4.client, Version::V2)?;
    talk.round_trip()?;
    lab.edge.ip("link set host mtu 1280")?;
    lab.host.ip("link set edge mtu 1280")?;
    talk.bulk()
}

/// A new uplink, and the route to clients moved to it: connections old and new go on. Then it is
/// removed, and comes again under the same name.
#[test]
fn an_uplink_that_comes_and_goes() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let truepeer = lab.truepeer().start()?;
    let mut old = Vec::new();
    for client in CLIENT.both(CLIENT_PORT) {
        old.push(Talk::open(&lab, &app, client, Version::V2)?);
    }
    for round in 1..3 {
        second_uplink(&lab)?;
        wait_for_reply_program(&lab, &truepeer, "second")?;
        through_192_0_2_1(&lab.host)?;
        for client in CLIENT.both(CLIENT_PORT + round) {
            sees(&lab, &app, client).context("through the new uplink")?;
        }
        old.iter_mut().try_for_each(Talk::round_trip)?;
        ip(
            &lab.host,
            "link del second
             -4 route replace default via 198.51.100.1
             -6 route replace default via 2001:db8:e::1",
        )?;
        for client in CLIENT.both(CLIENT_PORT + round + 10) {
            sees(&lab, &app, client).context("through the old uplink")?;
        }
        old.iter_mut().try_for_each(Talk::round_trip)?;
    }
    Ok(())
}

/// The daemon is asleep while so much changes that the kernel doesn't keep all of it for it.
#[test]
fn an_uplink_behind_more_changes_than_netlink_keeps() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let truepeer = lab.truepeer().start()?;
    truepeer.signal(Signal::STOP)?;
    more_changes_than_netlink_keeps(&lab.host)?;
    second_uplink(&lab)?;
    truepeer.signal(Signal::CONT)?;
    wait_for_reply_program(&lab, &truepeer, "second")?;
    poll::until("SYNs to be let in again", || {
        let (balancer, service) = (BALANCER.v4(0), HOST.v4(TRUEPEER_PORT));
        Ok(lab.edge.connect_from(balancer, service).ok())
    })?;
    through_192_0_2_1(&lab.host)?;
    let clients = CLIENT.both(CLIENT_PORT);
    clients
        .iter()
        .try_for_each(|client| sees(&lab, &app, *client))
}

/// Some are made elsewhere and moved in, or get another name.
#[test]
fn an_uplink_that_is_moved_in_and_renamed() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let truepeer = lab.truepeer().start()?;
    second_uplink(&lab)?;
    lab.host.ip(&format!(
        "link set second netns {client}",
        client = lab.client.path().display()
    ))?;
    lab.client.ip(&format!(
        "link set second name third netns {host}",
        host = lab.host.path().display()
    ))?;
    lab.host.ip("link set third name fourth
         link set fourth up addrgenmode none
         address add fe80::2/64 dev fourth nodad
         address add 192.0.2.2/24 dev fourth
         address add 2001:db8:2::2/64 dev fourth nodad")?;
    wait_for_reply_program(&lab, &truepeer, "fourth")?;
    through_192_0_2_1(&lab.host)?;
    let clients = CLIENT.both(CLIENT_PORT);
    clients
        .iter()
        .try_for_each(|client| sees(&lab, &app, *client))
}

/// A link says which device it is on; the filters of kernels without tcx are the device's.
fn wait_for_reply_program(lab: &Lab, truepeer: &Proc, device: &str) -> Result<()> {
    let described = lab.host.run(&format!("ip -o link show dev {device}"))?;
    let index = described.split(':').next().context("an index")?.parse()?;
    let filters = format!("tc filter show dev {device} egress");
    poll::until("replies to be steered on the new device", || {
        let attached = truepeer.fd_info("ifindex")?.contains(&index)
            || lab.host.run(&filters)?.contains("reply");
        Ok(attached.then_some(()))
    })
}
