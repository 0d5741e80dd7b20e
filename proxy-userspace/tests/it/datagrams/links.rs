//! Which devices datagrams may come by: those that a route to the balancer goes by. By any other one, whoever
//! is there could speak in the balancer's name.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use socket2::SockRef;

use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, HOST, LATER, NEIGHBOUR, STEER, TRUEPEER_PORT, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::lab::path::Path;
use crate::lab::poll;
use crate::steering::site::{ip, nft, own_by_a_route, second_uplink};

rows! {
    a_forged_datagram_is_dropped;
    a_forged_one_in_pieces_is_dropped;
    a_forged_one_for_a_client_who_is_here_is_dropped;
    forged_ones_are_no_sign_of_life;
    a_second_route_is_as_good;
    this_host_is_a_balancer_at_any_address_of_its_own;
    nobody_else_is_by_an_address_of_a_route_alone;
    nobody_speaks_to_a_steer_address;
}

/// The balancer's namespace has another link to the host, by which no route leads back.
pub fn other_link(lab: &Lab) -> Result<()> {
    second_uplink(lab)?;
    ip(
        &lab.edge,
        "-4 route add 198.51.100.2/32 via 192.0.2.2 dev second metric 5000
         -6 route add 2001:db8:e::2/128 via 2001:db8:2::2 dev second metric 5000
         -4 route add 198.51.100.2/32 dev host metric 1
         -6 route add 2001:db8:e::2/128 dev host metric 1",
    )
}

/// The balancer's address, by the other link.
fn forger(site: &Site) -> Result<UdpSocket> {
    let socket = site.balancer()?;
    SockRef::from(&socket).bind_device(Some(b"second"))?;
    socket.connect(site.service())?;
    Ok(socket)
}

/// Says something in the balancer's name there.
pub fn forge(site: &Site, port: u16) -> Result<()> {
    forger(site)?.send(&[&site.header(port)[..], b"forged"].concat())?;
    Ok(())
}

/// Until the daemon has judged it, so that the programs know the next one.
pub fn forge_and_wait(site: &Site, port: u16) -> Result<()> {
    forge(site, port)?;
    wait_dropped(site, 1)
}

fn count(site: &Site, name: &str) -> Result<u64> {
    let status = site.lab.shown("status")?;
    let ended = &status["connections"]["ended"];
    let all = [&status["kernel"][name], &ended[name]];
    Ok(all.into_iter().filter_map(serde_json::Value::as_u64).sum())
}

/// The kernel, or the daemon where it has to judge, says that it has dropped one for this.
fn wait_dropped(site: &Site, at_least: u64) -> Result<()> {
    poll::until("the datagrams to be dropped", || {
        let count = count(site, "datagram_reverse_path")? + count(site, "reverse_path")?;
        Ok((count >= at_least).then_some(()))
    })
}

fn a_forged_datagram_is_dropped(plan: Plan<'_>) -> Result<()> {
    let set_up = &other_link;
    let site = Plan { set_up, ..plan }.start()?;
    let forger = forger(&site)?;
    for sent in 1..=5 {
        forger.send(&[&site.header(1000)[..], b"forged"].concat())?;
        wait_dropped(&site, sent)?;
    }
    site.app.saw_nobody()?;
    if site.path == Path::Direct {
        // Once the daemon has judged.
        let by_the_kernel = count(&site, "datagram_reverse_path")?;
        ensure!(by_the_kernel == 4, "{by_the_kernel} by the kernel");
    }
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

/// The stack alone couldn't tell.
fn a_forged_one_in_pieces_is_dropped(plan: Plan<'_>) -> Result<()> {
    let set_up = &other_link;
    let site = Plan { set_up, ..plan }.start()?;
    let forger = forger(&site)?;
    forger.send(&[&site.header(1000)[..], &[7; 4000]].concat())?;
    wait_dropped(&site, 1)?;
    site.app.saw_nobody()?;
    site.exchange(&site.balancer()?, 1000, &[7; 4000])?;
    site.exchange(&site.balancer()?, 1001, b"hello")?;
    site.leaks.saw_none()
}

fn a_forged_one_for_a_client_who_is_here_is_dropped(plan: Plan<'_>) -> Result<()> {
    let set_up = &other_link;
    let site = Plan { set_up, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let same = balancer.try_clone()?;
    SockRef::from(&same).bind_device(Some(b"second"))?;
    same.connect(site.service())?;
    same.send(&[&site.header(1000)[..], b"forged"].concat())?;
    wait_dropped(&site, 1)?;
    SockRef::from(&same).bind_device(None)?;
    same.connect(site.service())?;
    site.exchange(&balancer, 1000, b"again")?;
    site.app.saw_nobody()?;
    site.end()
}

/// Where the first datagram alone has said for whom the balancer's socket speaks, its silence ends that.
fn forged_ones_are_no_sign_of_life(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        set_up: &other_link,
        framing: Framing::V2First,
        args: &["--close-after", "3s"],
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    SockRef::from(&balancer).bind_device(Some(b"second"))?;
    balancer.connect(site.service())?;
    for sent in 1..=6 {
        balancer.send(b"forged")?;
        wait_dropped(&site, sent)?;
        sleep(Duration::from_secs(1));
    }
    SockRef::from(&balancer).bind_device(None)?;
    balancer.connect(site.service())?;
    site.app.saw_nobody()?;
    site.exchange(&balancer, 1001, b"for somebody else")?;
    site.end()
}

/// But nobody else is in its name.
fn this_host_is_a_balancer_at_any_address_of_its_own(plan: Plan<'_>) -> Result<()> {
    let [v4, v6] = HOST.both(0).map(|at| at.ip());
    let set_up = |lab: &Lab| {
        nft(
            &lab.edge,
            &format!(
                "add table inet forge
                 add chain inet forge out {{ type nat hook postrouting priority 100; }}
                 add rule inet forge out meta nfproto ipv4 udp dport 7000 snat ip to {v4}
                 add rule inet forge out meta nfproto ipv6 udp dport 7000 snat ip6 to {v6}"
            ),
        )
    };
    let site = Plan {
        set_up: &set_up,
        allow: &[HOST],
        ..plan
    }
    .start()?;
    let forger = site.balancer()?;
    forger.send(&[&site.header(1000)[..], b"forged"].concat())?;
    wait_dropped(&site, 1)?;
    let balancer = datagram::socket(&site.lab.host, site.of(HOST, 0))?;
    balancer.connect(site.service())?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.exchange(&balancer, 1000, &[7; 4000])?;
    site.app.saw_nobody()?;
    site.leaks.saw_none()
}

/// The host has the service's address by a route alone.
fn nobody_else_is_by_an_address_of_a_route_alone(plan: Plan<'_>) -> Result<()> {
    let ([v4, v6], [from4, from6]) = (HOST.both(0), NEIGHBOUR.both(0));
    let (v4, v6, from4, from6) = (v4.ip(), v6.ip(), from4.ip(), from6.ip());
    let set_up = |lab: &Lab| {
        own_by_a_route(lab)?;
        ip(
            &lab.edge,
            "-4 route add 192.0.2.99/32 via 198.51.100.2
             -6 route add 2001:db8:2::99/128 via 2001:db8:e::2",
        )?;
        nft(
            &lab.edge,
            &format!(
                "add table inet forge
                 add chain inet forge out {{ type nat hook postrouting priority 100; }}
                 add rule inet forge out ip saddr {from4} snat ip to {v4}
                 add rule inet forge out ip6 saddr {from6} udp dport 7001 snat ip6 to {v6}"
            ),
        )
    };
    let site = Plan {
        set_up: &set_up,
        args: &["--listen", "0.0.0.0:7001", "--listen", "[::]:7001"],
        allow: &[HOST],
        ..plan
    }
    .start()?;
    let service = site.of(LATER, TRUEPEER_PORT + 1);
    let forger = datagram::socket(&site.lab.edge, site.of(NEIGHBOUR, 0))?;
    forger.connect(service)?;
    forger.send(&[&site.header(1000)[..], b"forged"].concat())?;
    wait_dropped(&site, 1)?;
    forger.send(&[&site.header(1000)[..], &[7; 4000]].concat())?;
    wait_dropped(&site, 2)?;
    let balancer = site.balancer()?;
    balancer.connect(service)?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.app.saw_nobody()?;
    site.end()
}

/// Where the host has two ways to its balancer, datagrams come by either: by the kernel as well, once the
/// daemon has asked.
fn a_second_route_is_as_good(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| {
        other_link(lab)?;
        ip(
            &lab.host,
            "-4 route add 198.51.100.1/32 via 192.0.2.1 dev second metric 5000
             -6 route add 2001:db8:e::1/128 via 2001:db8:2::1 dev second metric 5000
             -4 route add 198.51.100.1/32 dev edge metric 1
             -6 route add 2001:db8:e::1/128 dev edge metric 1",
        )
    };
    let site = Plan {
        set_up: &set_up,
        ..plan
    }
    .start()?;
    let balancer = forger(&site)?;
    // Of one client each: who has begun by the daemon stays there for a while.
    for port in 1000..1003 {
        balancer.send(&[&site.header(port)[..], b"hello"].concat())?;
        site.app_got(port, b"hello")?;
    }
    if site.path == Path::Direct {
        let up = count(&site, "datagram_up")?;
        ensure!(up == 2, "{up} by the kernel");
    }
    site.leaks.saw_none()
}

/// There an application would hear whoever knows of it, and the host say in its name that there is none.
fn nobody_speaks_to_a_steer_address(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        bind: WILDCARD,
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    for words in [&b"hello"[..], &[b'x'; 3000]] {
        let before = count(&site, "datagram_steer_address")?;
        to_a_steer_address(&site, words)?;
        poll::until("it to be dropped", || {
            let dropped = count(&site, "datagram_steer_address")? - before;
            Ok((dropped > 0).then_some(()))
        })?;
    }
    site.app.saw_nobody()?;
    site.exchange(&balancer, 1000, b"hello again")?;
    site.end()
}

pub fn to_a_steer_address(site: &Site, words: &[u8]) -> Result<()> {
    let at = site.of(STEER, APP_PORT);
    let route = format!("route replace {} via {}", at.ip(), site.service().ip());
    site.lab.edge.ip(&route)?;
    let somebody = datagram::socket(&site.lab.edge, site.of(NEIGHBOUR, 0))?;
    somebody.send_to(words, at)?;
    Ok(())
}
