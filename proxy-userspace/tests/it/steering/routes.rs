//! Hosts whose routes, addresses or families are not what one expects.

use anyhow::Result;

use super::site::{ip, second_uplink, sysctl};
use super::{CLIENT_PORT, changed, datagrams, holds, rows, sees, services};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, NEIGHBOUR, OTHER_CLIENT, Pair, WILDCARD};
use crate::lab::app::App;
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::leaks::Leaks;

rows! {
    no_ipv4_default: |lab| ip(&lab.host, "-4 route del default")
        => wildcard_v4 loopback_v4 address_v4 dual_v4 loopback_v6;
    no_ipv6_default: |lab| ip(&lab.host, "-6 route del default")
        => wildcard_v6 loopback_v6 address_v6 loopback_v4;
    no_default_at_all: |lab| ip(&lab.host, "-4 route del default\n-6 route del default")
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    /// The balancer and the clients are IPv4; the app on [::] hears them.
    no_ipv6_address: no_ipv6_address => wildcard_v4 loopback_v4 address_v4 dual_v4;
    /// Clients of IPv6 nevertheless, behind a balancer of IPv4.
    no_ipv6_address_but_clients: |lab| {
        no_ipv6_address(lab)?;
        ip(&lab.host, "-6 route flush default")
    } => wildcard_v6 loopback_v6;
    ipv6_off: |lab| ipv6_off(lab, &["all", "default"]) => wildcard_v4 loopback_v4 address_v4 dual_v4;
    ipv6_off_on_new_devices: |lab| ipv6_off(lab, &["default"])
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    ipv6_off_on_the_uplink: |lab| ipv6_off(lab, &["edge"]) => loopback_v4 loopback_v6 wildcard_v6;
    forwarding_off: |lab| forwarding(lab, "0")
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    forwarding_on: |lab| forwarding(lab, "1")
        => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
    default_through_several_uplinks: multipath
        => wildcard_v4 loopback_v4 address_v4 wildcard_v6 loopback_v6 address_v6;
    /// A reply that takes another uplink than the balancer's connection.
    clients_behind_another_uplink: by_another_uplink
        => wildcard_v4 loopback_v4 address_v4 wildcard_v6 loopback_v6 address_v6;
    /// The way to the clients is a router that tells nobody but the hosts of its link where it is.
    clients_behind_a_router_for_its_link_alone: |lab| {
        by_another_uplink(lab)?;
        sysctl(&lab.edge, "ipv4/conf/second/rp_filter", "1")
    } => wildcard_v4 loopback_v4 address_v4 wildcard_v6 loopback_v6 address_v6;
}

/// Hosts whose way back to the balancer isn't in the routes alone, or that take nothing from lo.
mod by_the_daemon {
    use super::super::falls_back as holds;
    use super::*;

    rows! {
        no_default_and_strict_rp_filter: |lab| {
            ip(&lab.host, "-4 route del default")?;
            sysctl(&lab.host, "ipv4/conf/all/rp_filter", "1")
        } => wildcard_v4 loopback_v4 address_v4;
        /// Only what comes from the host's own addresses has a way out.
        default_by_source_only: by_source
            => wildcard_v4 loopback_v4 address_v4 wildcard_v6 loopback_v6 address_v6;
    }
}

fn by_another_uplink(lab: &Lab) -> Result<()> {
    second_uplink(lab)?;
    ip(
        &lab.host,
        "-4 route replace default via 192.0.2.1
         -6 route replace default via 2001:db8:2::1",
    )
}

fn no_ipv6_address(lab: &Lab) -> Result<()> {
    ip(&lab.host, "-6 address flush dev edge")
}

fn ipv6_off(lab: &Lab, devices: &[&str]) -> Result<()> {
    devices.iter().try_for_each(|device| {
        let key = format!("ipv6/conf/{device}/disable_ipv6");
        sysctl(&lab.host, &key, "1")
    })
}

fn forwarding(lab: &Lab, value: &str) -> Result<()> {
    sysctl(&lab.host, "ipv4/ip_forward", value)?;
    sysctl(&lab.host, "ipv6/conf/all/forwarding", value)
}

fn multipath(lab: &Lab) -> Result<()> {
    second_uplink(lab)?;
    ip(
        &lab.host,
        "-4 route replace default nexthop via 198.51.100.1 nexthop via 192.0.2.1
         -6 route replace default nexthop via 2001:db8:e::1 nexthop via 2001:db8:2::1",
    )
}

fn by_source(lab: &Lab) -> Result<()> {
    ip(
        &lab.host,
        "-4 route del default
         -6 route del default
         -4 route add default via 198.51.100.1 table 100
         -6 route add default via 2001:db8:e::1 table 100
         -4 rule add from 198.51.100.2 table 100
         -6 rule add from 2001:db8:e::2 table 100",
    )
}

mod each_client_by_its_own_uplink {
    use super::*;

    #[test]
    fn tcp() -> Result<()> {
        clients_are_seen(with_a_client_behind_another_uplink, &[CLIENT, OTHER_CLIENT])
    }

    #[test]
    fn udp() -> Result<()> {
        clients_are_heard(with_a_client_behind_another_uplink, &[CLIENT, OTHER_CLIENT])
    }
}

/// A client that the host could reach without a router.
mod a_client_on_the_uplinks_own_network {
    use super::*;

    #[test]
    fn tcp() -> Result<()> {
        clients_are_seen(|_| Ok(()), &[NEIGHBOUR])
    }

    #[test]
    fn udp() -> Result<()> {
        clients_are_heard(|_| Ok(()), &[NEIGHBOUR])
    }
}

fn with_a_client_behind_another_uplink(lab: &Lab) -> Result<()> {
    second_uplink(lab)?;
    for client in OTHER_CLIENT.both(0) {
        let via = if client.is_ipv4() {
            "192.0.2.1"
        } else {
            "2001:db8:2::1"
        };
        lab.host
            .ip(&format!("route add {} via {via}", client.ip()))?;
    }
    Ok(())
}

fn clients_are_seen(set_up: fn(&Lab) -> Result<()>, clients: &[Pair]) -> Result<()> {
    let (lab, ()) = changed(set_up)?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let mut clients = clients.iter().flat_map(|pair| pair.both(CLIENT_PORT));
    clients.try_for_each(|client| sees(&lab, &app, client))
}

fn clients_are_heard(set_up: fn(&Lab) -> Result<()>, clients: &[Pair]) -> Result<()> {
    let (lab, ()) = changed(set_up)?;
    let app = Echo::listen(&lab.host, WILDCARD.v6(APP_PORT), Kind::Unconnected)?;
    let leaks = Leaks::watch(&lab.edge)?;
    let _truepeer = lab.truepeer().args(Framing::V2.args()).start()?;
    for client in clients.iter().flat_map(|pair| pair.both(CLIENT_PORT)) {
        for service in services(&lab) {
            datagrams::sees(&lab, service, &app, client)?;
        }
    }
    leaks.saw_none()
}
