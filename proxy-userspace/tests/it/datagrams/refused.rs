//! What the daemon refuses, and counts, where no program does; and balancers that are allowed no longer.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::SockRef;

use super::clients::{counted, ended, ended_so_far};
use super::rows;
use super::scripts::Family;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{
    BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LATER, LOOPBACK, NEIGHBOUR, Pair, TRUEPEER_PORT,
    WILDCARD,
};
use crate::lab::datagram::{self, Framing};
use crate::lab::header;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::steering::site::{ip, own_by_a_route, sysctl};

rows! {
    headers_that_say_nothing;
    clients_that_cannot_be;
    of_a_client_who_is_the_host_by_a_route;
    of_a_client_who_is_all_routers;
    of_another_s_client;
    to_everybody;
    a_balancer_that_is_off_the_list;
}

/// What isn't a header, or is one of TCP's; what the balancer's socket says next may be right all the same.
fn headers_that_say_nothing(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan { framing, ..plan }.start()?;
        let balancer = site.balancer()?;
        let of_tcp = header::v2(0x21, site.client(1), site.front(), &[]);
        let right = site.header(1);
        let cut = &right[..right.len() - 1];
        let of_spp = framing == Framing::Spp;
        let how = |of_v2, of_others| if of_spp { of_others } else { of_v2 };
        for (bytes, how) in [
            (&b"hello"[..], how("bad_signature", "spp_bad_magic")),
            (OF_V1, how("v1_in_datagram", "spp_bad_magic")),
            (&of_tcp, how("transport_mismatch", "spp_bad_magic")),
            (cut, how("datagram_incomplete", "spp_short")),
            (b"", how("datagram_incomplete", "spp_short")),
        ] {
            let before = ended_so_far(&site, how)?;
            balancer.send(bytes)?;
            ended(&site, how, before + 1).with_context(|| format!("{framing:?}"))?;
        }
        site.app.saw_nobody()?;
        site.exchange(&balancer, 1001, b"hello")?;
        // What comes at once behind one that the daemon has is the daemon's as well.
        poll::until("it to go its path", || {
            site.exchange_with(&balancer, &site.next_header(1001), 1001, b"again")?;
            let up = site.lab.shown("status")?["kernel"]["datagram_up"].as_u64();
            Ok((site.path == Path::Daemon || up > Some(0)).then_some(()))
        })?;
        site.end()?;
    }
    Ok(())
}

pub const OF_V1: &[u8] = b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\nhello";

/// By a socket each, as one of v2-first speaks for whom it has named, be it nobody.
fn clients_that_cannot_be(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let both = true;
        let site = Plan {
            framing,
            both,
            ..plan
        }
        .start()?;
        let mut open = Vec::new();
        for family in [Pair::v4, Pair::v6] {
            let front = family(FRONT, FRONT_PORT);
            for (client, how) in of_nobody(family) {
                let before = ended_so_far(&site, how)?;
                let balancer = site.balancer()?;
                let claimed = framing.header(client, front);
                balancer.send(&[&claimed[..], b"hello"].concat())?;
                ended(&site, how, before + 1).with_context(|| format!("{client} {framing:?}"))?;
                // Its port is nobody else's.
                open.push(balancer);
            }
        }
        site.app.saw_nobody()?;
        site.exchange(&site.balancer()?, 1001, b"hello")?;
        site.end()?;
    }
    Ok(())
}

/// Addresses that no client has, or that it would be a way to speak to the host itself by.
fn of_nobody(family: Family) -> Vec<(SocketAddr, &'static str)> {
    let addr = |pair, how| (family(pair, 1000), how);
    let all = [
        addr(LOOPBACK, "client_loopback"),
        addr(HOST, "client_own_address"),
        addr(WILDCARD, "client_unspecified"),
        (family(CLIENT, 0), "client_no_port"),
    ];
    let more: &[(&str, &str)] = match family(HOST, 0) {
        SocketAddr::V4(_) => &[
            ("224.0.0.9:1000", "client_multicast"),
            ("255.255.255.255:1000", "client_broadcast"),
            ("198.51.100.255:1000", "client_broadcast"),
            ("169.254.80.80:1000", "client_steer_address"),
        ],
        SocketAddr::V6(_) => &[
            ("[ff02::9]:1000", "client_multicast"),
            ("[fe80::9]:1000", "client_link_local"),
            ("[fd74:7275:6570::1]:1000", "client_steer_address"),
        ],
    };
    let more = more
        .iter()
        .map(|(text, how)| (text.parse().expect("an address"), *how));
    all.into_iter().chain(more).collect()
}

/// An answer to him would be some other socket's of the host.
fn of_a_client_who_is_the_host_by_a_route(plan: Plan<'_>) -> Result<()> {
    let set_up = &own_by_a_route;
    let site = Plan { set_up, ..plan }.start()?;
    of_the_host(&site, site.of(LATER, 1000), 1)?;
    // Another one of later on, whose client has a flow already.
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let client = site.client(1000).ip();
    ip(&site.lab.host, &format!("route add local {client} dev lo"))?;
    poll::until("the client to be the host", || {
        match balancer.send(&[&site.header(1000)[..], b"hello"].concat()) {
            // The daemon may hear of the route a moment after the app has answered, to nobody on the host.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            sent => drop(sent?),
        }
        Ok((ended_so_far(&site, "client_own_address")? > 1).then_some(()))
    })?;
    site.leaks.saw_none()
}

/// Of IPv6: the first address of a subnet.
fn of_a_client_who_is_all_routers(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| sysctl(&lab.host, "ipv6/conf/all/forwarding", "1");
    let set_up = &set_up;
    let site = Plan {
        set_up,
        both: true,
        ..plan
    }
    .start()?;
    of_the_host(&site, "[2001:db8:e::]:1000".parse()?, 1)?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

/// The app doesn't get it, and who listens at the client's address hears no answer.
fn of_the_host(site: &Site, client: SocketAddr, times: u64) -> Result<()> {
    let mut front = site.front();
    if client.is_ipv6() {
        front = FRONT.v6(FRONT_PORT);
    }
    let header = datagram::v2(client, front, &[]);
    site.balancer()?.send(&[&header[..], b"hello"].concat())?;
    ended(site, "client_own_address", times)?;
    site.app.saw_nobody()
}

/// In pieces, so that the daemon judges it on either path.
fn of_another_s_client(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        both: true,
        bind: WILDCARD,
        allow: &[NEIGHBOUR],
        ..plan
    }
    .start()?;
    let words = [&site.header(1000)[..], &[7; 4000]].concat();
    site.balancer()?.send(&words)?;
    wait_listed(&site)?;
    site.balancer_at(NEIGHBOUR)?.send(&words)?;
    ended(&site, "taken", 1)
}

/// All of a link hear that, and no answer to it can be told from another one.
fn to_everybody(plan: Plan<'_>) -> Result<()> {
    const ALL_NODES: Pair = Pair {
        v4: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)),
        v6: IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    };
    let site = Plan {
        args: &["--listen", "0.0.0.0:7001", "--listen", "[::]:7001"],
        ..plan
    }
    .start()?;
    let balancer = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    SockRef::from(&balancer).bind_device(Some(b"host"))?;
    let words = [&site.header(1000)[..], b"hello"].concat();
    balancer.send_to(&words, site.of(ALL_NODES, TRUEPEER_PORT + 1))?;
    ended(&site, "to_everybody", 1)?;
    site.app.saw_nobody()?;
    site.exchange(&site.balancer()?, 1000, b"to one host")?;
    site.end()
}

/// The very next datagram shows it, be its flow ever so busy.
fn a_balancer_that_is_off_the_list(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    let address = site.of(BALANCER, 0).ip().to_string();
    for times in 1..=3 {
        site.exchange(&balancer, 1000, b"allowed")?;
        site.lab
            .allow(&["remove", &address])?
            .expect(0, &["removed"])?;
        balancer.send(&[&site.header(1000)[..], b"refused"].concat())?;
        counted(&site, "datagram_refused", times)?;
        site.app.saw_nobody()?;
        site.lab.allow(&["add", &address])?.expect(0, &["added"])?;
    }
    site.exchange(&balancer, 1000, b"allowed again")?;
    site.end()
}

fn wait_listed(site: &Site) -> Result<()> {
    poll::until("the flow to be listed", || {
        let shown = site.lab.shown("connections")?;
        Ok(shown
            .as_array()
            .is_some_and(|all| !all.is_empty())
            .then_some(()))
    })
}
