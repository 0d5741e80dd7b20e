//! By which address and device replies leave, wherever the service listens and whoever the host has to ask for the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::{Context, Result};

use super::clients::counted;
use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{HOST, LATER, LOOPBACK, Pair, TRUEPEER_PORT, WILDCARD};
use crate::lab::datagram::Framing;
use crate::steering::site::{ip, nft, second_uplink, sysctl};

rows! {
    by_the_address_that_was_sent_to;
    by_the_address_that_was_sent_to_of_two_listeners;
    by_the_device_that_leads_to_the_balancer;
    while_the_host_looks_for_its_router;
    while_the_host_looks_for_its_router_in_the_name_of_another_link;
}

/// Of a service at all addresses, in one piece and in several.
fn by_the_address_that_was_sent_to(plan: Plan<'_>) -> Result<()> {
    by_each_address(plan)
}

/// The other one is at one of those addresses alone.
fn by_the_address_that_was_sent_to_of_two_listeners(plan: Plan<'_>) -> Result<()> {
    let [v4, v6] = HOST.both(TRUEPEER_PORT).map(|at| at.to_string());
    let args = &["--listen", &v4, "--listen", &v6];
    by_each_address(Plan { args, ..plan })
}

fn by_each_address(plan: Plan<'_>) -> Result<()> {
    for &framing in Framing::scaled() {
        let plan = Plan {
            framing,
            listen: WILDCARD,
            set_up: &with_another_address,
            ..plan
        };
        let site = plan.start()?;
        for (port, address) in (1000..).zip([LATER, HOST]) {
            let balancer = site.balancer()?;
            // From any other one it hears nothing.
            balancer.connect(site.of(address, TRUEPEER_PORT))?;
            exchanges(&site, &balancer, port).with_context(|| format!("{framing:?}"))?;
        }
        site.end()?;
    }
    Ok(())
}

pub fn with_another_address(lab: &Lab) -> Result<()> {
    let [v4, v6] = LATER.both(0).map(|at| at.ip());
    lab.host.ip(&format!(
        "address add {v4}/32 dev lo
         address add {v6}/128 dev lo nodad"
    ))?;
    let [via4, via6] = HOST.both(0).map(|at| at.ip());
    lab.edge.ip(&format!(
        "route add {v4} via {via4}
         route add {v6} via {via6}"
    ))
}

fn exchanges(site: &Site, balancer: &UdpSocket, port: u16) -> Result<()> {
    let header = site.next_header(port);
    site.exchange(balancer, port, b"hello")?;
    site.exchange_with(balancer, &header, port, b"again")?;
    site.exchange_with(balancer, &header, port, &[7; 4000])
}

/// Of the lab's edge, on another link than the one that leads to clients.
const BEYOND: Pair = Pair {
    v4: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    v6: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)),
};

fn by_the_device_that_leads_to_the_balancer(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        second_uplink(lab)?;
        ip(
            &lab.edge,
            "-4 route add 198.51.100.2/32 via 192.0.2.2 dev second
             -6 route add 2001:db8:e::2/128 via 2001:db8:2::2 dev second metric 1",
        )?;
        nft(
            &lab.edge,
            "add table inet f
             add chain inet f early { type filter hook prerouting priority -450 ; }
             add rule inet f early iif host udp sport 7000 drop",
        )
    };
    let plan = Plan {
        set_up: &set_up,
        allow: &[BEYOND],
        ..plan
    };
    for &framing in Framing::scaled() {
        let site = Plan { framing, ..plan }.start()?;
        exchanges(&site, &site.balancer_at(BEYOND)?, 1000)?;
        site.end()?;
    }
    Ok(())
}

/// A router that answers nobody but the hosts of its link. In IPv6 the kernel asks by an address of the link.
fn answers_its_link_alone(lab: &Lab) -> Result<()> {
    sysctl(&lab.edge, "ipv4/conf/host/rp_filter", "1")
}

fn while_the_host_looks_for_its_router(plan: Plan<'_>) -> Result<()> {
    looks_for_its_router(plan, LOOPBACK, &answers_its_link_alone)
}

/// The application answers from an address that isn't of the link.
fn while_the_host_looks_for_its_router_in_the_name_of_another_link(plan: Plan<'_>) -> Result<()> {
    looks_for_its_router(plan, LATER, &|lab| {
        with_another_address(lab)?;
        // It takes the other address for one that is elsewhere.
        lab.edge.ip("route delete 192.0.2.99")?;
        answers_its_link_alone(lab)
    })
}

fn looks_for_its_router(
    plan: Plan<'_>,
    target: Pair,
    set_up: &dyn Fn(&Lab) -> Result<()>,
) -> Result<()> {
    let site = Plan { set_up, ..plan }.app_at(target).start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.lab.host.ip("neigh flush dev edge")?;
    site.exchange(&balancer, 1000, b"again")?;
    if site.service().is_ipv4() {
        counted(&site, "reply_arp", 1)?;
    }
    site.end()
}
