//! Connections that the kernel can't carry, or not whole: the daemon does, without being told.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use super::site::{Plan, Site};
use super::trials::carries;
use super::{CLIENT_PORT, MIB, only};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, Pair, TRUEPEER_PORT, WILDCARD};
use crate::lab::app::App;
use crate::lab::header::{Version, v2};
use crate::lab::lossy::Nature;
use crate::lab::mangle;
use crate::lab::path::Path;
use crate::lab::talk::{Side, Talk};
use crate::lab::tuntap::Layer;
use crate::steering::site::{ip, nft, second_uplink, sysctl};

only! {
    falls_back:
    port_redirected_by_nftables;
    balancer_on_this_host;
    policy_routing_by_source_port;
    policy_routing_by_mark;
    synproxy;
    no_syn_cookies;
    conntrack_that_is_not_loose;
    header_longer_than_the_kernel_reads;
    ip_options;
    balancer_and_client_of_two_families;
}

/// By a connection of the test's own making.
fn carries_from(site: &Site, balancer: TcpStream) -> Result<()> {
    let mut talk = site.open_over(balancer, CLIENT_PORT)?;
    talk.warm_up(&site.lab, site.path)?;
    talk.ping_pong(64, 100)?;
    talk.transfer(&Side::BOTH, 4 * MIB)
}

fn port_redirected_by_nftables(plan: Plan<'_>) -> Result<()> {
    const PUBLIC: u16 = 7443;
    let set_up = |lab: &Lab| {
        let rules = format!(
            "add table inet public
             add chain inet public pre {{ type nat hook prerouting priority -100 ; }}
             add rule inet public pre tcp dport {PUBLIC} redirect to :{TRUEPEER_PORT}"
        );
        nft(&lab.host, &rules)
    };
    let site = Plan {
        set_up: &set_up,
        ..plan
    }
    .start()?;
    let to = site.of(HOST, PUBLIC);
    let balancer = site.lab.edge.connect_from(site.balancer(), to)?;
    carries_from(&site, balancer)
}

/// By lo.
fn balancer_on_this_host(plan: Plan<'_>) -> Result<()> {
    let allow = [HOST.v4.to_string(), HOST.v6.to_string()];
    let allow = [allow[0].as_str(), allow[1].as_str()];
    let site = Plan {
        allow: &allow,
        ..plan
    }
    .start()?;
    let balancer = site
        .lab
        .host
        .connect_from(site.of(HOST, 0), site.service())?;
    carries_from(&site, balancer)
}

/// The way back is by another uplink than routes alone say, and that one takes nothing.
fn by_the_second_uplink(lab: &Lab, rule: &str) -> Result<()> {
    second_uplink(lab)?;
    nft(
        &lab.edge,
        "add table inet way
         add chain inet way pre { type filter hook prerouting priority 0 ; }
         add rule inet way pre iifname host tcp sport 7000 drop",
    )?;
    ip(
        &lab.host,
        &format!(
            "-4 route add default via 192.0.2.1 table 100
             -6 route add default via 2001:db8:2::1 table 100
             -4 rule add {rule} table 100
             -6 rule add {rule} table 100"
        ),
    )
}

fn policy_routing_by_source_port(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| by_the_second_uplink(lab, "ipproto tcp sport 7000");
    let set_up = &set_up;
    carries(&Plan { set_up, ..plan }.start()?)
}

/// A mark that conntrack keeps for the connection.
fn policy_routing_by_mark(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        by_the_second_uplink(lab, "fwmark 7")?;
        nft(
            &lab.host,
            "add table inet marks
             add chain inet marks pre { type filter hook prerouting priority -150 ; }
             add rule inet marks pre tcp dport 7000 ct mark set 7
             add chain inet marks out { type route hook output priority -150 ; }
             add rule inet marks out meta mark set ct mark",
        )
    };
    let set_up = &set_up;
    carries(&Plan { set_up, ..plan }.start()?)
}

fn synproxy(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        nft(
            &lab.host,
            "add table inet proxy
             add chain inet proxy pre { type filter hook prerouting priority -300 ; }
             add rule inet proxy pre tcp dport 7000 tcp flags syn notrack
             add chain inet proxy input { type filter hook input priority 0 ; }
             add rule inet proxy input tcp dport 7000 ct state invalid,untracked \
             synproxy mss 1460 wscale 7 timestamp sack-perm
             add rule inet proxy input ct state invalid drop",
        )?;
        sysctl(&lab.host, "netfilter/nf_conntrack_tcp_loose", "0")
    };
    let set_up = &set_up;
    carries(&Plan { set_up, ..plan }.start()?)
}

fn no_syn_cookies(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| sysctl(&lab.host, "ipv4/tcp_syncookies", "0");
    let set_up = &set_up;
    carries(&Plan { set_up, ..plan }.start()?)
}

/// Such a host takes no connection that it hasn't seen the SYN of.
fn conntrack_that_is_not_loose(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        nft(
            &lab.host,
            "add table inet strict
             add chain inet strict input { type filter hook input priority 0 ; }
             add rule inet strict input ct state invalid drop",
        )?;
        sysctl(&lab.host, "netfilter/nf_conntrack_tcp_loose", "0")
    };
    let set_up = &set_up;
    carries(&Plan { set_up, ..plan }.start()?)
}

/// One that starts with `header`, which isn't what [`Site::open`] would send.
fn carries_after(plan: Plan<'_>, header: fn(&Site, SocketAddr) -> Vec<u8>) -> Result<()> {
    let site = plan.start()?;
    let client = site.client(CLIENT_PORT);
    let mut balancer = site.connect(0)?;
    balancer.write_all(&header(&site, client))?;
    let mut talk = Talk::accept(balancer, &site.app, client)?;
    talk.warm_up(&site.lab, site.path)?;
    talk.transfer(&Side::BOTH, 4 * MIB)
}

fn header_longer_than_the_kernel_reads(plan: Plan<'_>) -> Result<()> {
    carries_after(plan, |site, client| {
        let noop = [&[4, 1, 0xf4][..], &[0; 500]].concat();
        v2(0x21, client, site.of(FRONT, FRONT_PORT), &noop)
    })
}

/// From the SYN on.
fn ip_options(plan: Plan<'_>) -> Result<()> {
    let wire = Nature {
        mangle: Some(mangle::ip_options),
        ..Nature::sound(Layer::Tap)
    };
    let wire = Some(wire);
    let site = Plan { wire, ..plan }.start()?;
    carries(&site)?;
    let counted = site.wire.as_ref().context("a wire")?.counted();
    ensure!(counted.mangled > 1000, "{counted:?}");
    Ok(())
}

/// `family` is the balancer's.
fn balancer_and_client_of_two_families(plan: Plan<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _truepeer = lab.truepeer().args(plan.told.args()).start()?;
    let other = if plan.is_v4() { Pair::v6 } else { Pair::v4 };
    let client = other(CLIENT, CLIENT_PORT);
    let header = Version::V2.header(client, other(FRONT, FRONT_PORT));
    let service = (plan.family)(HOST, TRUEPEER_PORT);
    let mut talk = Talk::accept(lab.balancer_to(service, &header)?, &app, client)?;
    talk.warm_up(&lab, Path::Daemon)?;
    talk.transfer(&Side::BOTH, 4 * MIB).context("in bulk")
}
