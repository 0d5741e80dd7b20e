//! Datagrams of containers that no balancer has sent, beside those that one has.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Site, behind, bridge, freely_and_masqueraded, nft, sysctl, veth};
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT, WILDCARD};
use crate::lab::datagram::{self, Echo, Framing, Kind};
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::steering::{CLIENT_PORT, datagrams};

#[test]
fn outsiders_of_a_container_v4() -> Result<()> {
    outsiders_behind(CLIENT.v4(CLIENT_PORT))
}

#[test]
fn outsiders_of_a_container_v6() -> Result<()> {
    outsiders_behind(CLIENT.v6(CLIENT_PORT))
}

/// Told to refuse them, the app answers balancers' clients and its host.
fn outsiders_behind(client: SocketAddr) -> Result<()> {
    let site = Site::new(bridge, freely_and_masqueraded)?;
    let bind = WILDCARD.like(client, APP_PORT);
    let app = Echo::listen(&site.container, bind, Kind::Unconnected)?;
    let leaks = Leaks::watch(&site.lab.edge)?;
    let refuse = ["--outsiders", "refuse", "--close-after", "3s"];
    let truepeer = site.truepeer().args(Framing::V2.args()).args(refuse);
    let _truepeer = truepeer.start()?;
    datagrams::sees(&site.lab, HOST.like(client, TRUEPEER_PORT), &app, client)?;
    let orphans = || -> Result<u64> {
        let count = site.lab.shown("status")?["kernel"]["datagram_orphan"].as_u64();
        Ok(count.unwrap_or_default())
    };
    poll::until("the client to be forgotten", || {
        let shown = site.lab.shown("connections")?;
        Ok((shown.as_array().context("an array")?.is_empty()).then_some(()))
    })?;
    // What the daemon takes for now is half a second behind.
    std::thread::sleep(Duration::from_secs(1));
    for (port, words) in [(0, &b"late"[..]), (2, b"unasked"), (3, &[7; 4000])] {
        let before = orphans()?;
        let to = SocketAddr::new(client.ip(), client.port() + port);
        app.say(to, words)?;
        poll::until("an answer to be dropped", || {
            Ok((orphans()? > before).then_some(()))
        })?;
    }
    let host = datagram::socket(&site.lab.host, WILDCARD.like(client, 0))?;
    host.send_to(b"hello", behind(client))?;
    datagram::receive(&host).context("the host's own answer")?;
    leaks.saw_none()
}

/// The container's own, also to an address that is a client of its app at the same time.
#[test]
fn outbound_datagrams_go_on_as_before() -> Result<()> {
    let site = Site::new(bridge, freely_and_masqueraded)?;
    let far = FRONT.both(9000);
    let bind = WILDCARD.v6(APP_PORT);
    let app = Echo::listen(&site.container, bind, Kind::Unconnected)?;
    let listen = |far| Echo::listen(&site.lab.edge, far, Kind::Unconnected);
    let echoes = [listen(far[0])?, listen(far[1])?];
    let open = |far: SocketAddr| -> Result<UdpSocket> {
        let own = SocketAddr::new(behind(far).ip(), 0);
        let socket = datagram::socket(&site.container, own)?;
        socket.connect(far)?;
        Ok(socket)
    };
    let talk = |socket: &UdpSocket| -> Result<()> {
        let far = socket.peer_addr()?;
        socket.send(b"outbound")?;
        let (seen, _) = echoes[usize::from(far.is_ipv6())].next()?;
        ensure!(seen.ip() == HOST.like(far, 0).ip(), "not masqueraded");
        ensure!(datagram::receive(socket)?.0 == b"outbound");
        Ok(())
    };
    let before = [open(far[0])?, open(far[1])?];
    before.iter().try_for_each(talk).context("by itself")?;
    for path in Path::BOTH {
        let truepeer = site.truepeer().args(Framing::V2.args()).args(path.args());
        let _truepeer = truepeer.start()?;
        for client in [CLIENT.both(CLIENT_PORT), far].concat() {
            let service = HOST.like(client, TRUEPEER_PORT);
            datagrams::sees(&site.lab, service, &app, client)?;
        }
        before.iter().try_for_each(talk).context("from before")?;
        for far in far {
            talk(&open(far)?).context("with truepeer")?;
        }
    }
    Ok(())
}

#[test]
fn direct_datagrams_to_the_app_go_on() -> Result<()> {
    let site = Site::new(veth, freely_and_masqueraded)?;
    let bind = WILDCARD.v6(APP_PORT);
    let app = Echo::listen(&site.container, bind, Kind::Unconnected)?;
    for path in Path::BOTH {
        let truepeer = site.truepeer().args(Framing::V2.args()).args(path.args());
        let _truepeer = truepeer.start()?;
        for near in ["10.80.0.1:0", "[fd80::1]:0"] {
            let near = datagram::socket(&site.lab.host, near.parse()?)?;
            let own = near.local_addr()?;
            near.send_to(b"direct", behind(own))?;
            let (seen, _) = app.next()?;
            let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
            ensure!(seen == own, "the app sees {seen}");
            let (answer, by) = datagram::receive(&near)?;
            ensure!(answer == b"direct" && by == behind(own), "from {by}");
            let service = HOST.like(own, TRUEPEER_PORT);
            datagrams::sees(&site.lab, service, &app, CLIENT.like(own, CLIENT_PORT))?;
        }
    }
    Ok(())
}

#[test]
fn long_ones_for_a_container_that_is_gone_v4() -> Result<()> {
    for_one_that_is_gone(CLIENT.v4(CLIENT_PORT))
}

#[test]
fn long_ones_for_a_container_that_is_gone_v6() -> Result<()> {
    for_one_that_is_gone(CLIENT.v6(CLIENT_PORT))
}

/// The host says so of each piece: of IPv4's first one to the balancer, and nothing to the client.
fn for_one_that_is_gone(client: SocketAddr) -> Result<()> {
    let told = match client.is_ipv4() {
        true => "datagram_icmp",
        false => "datagram_icmp_lost",
    };
    without_its_pieces(client, told, |site| {
        site.container.ip("address flush dev lan")?;
        site.lab.host.ip("neigh flush dev bridge")
    })
}

#[test]
fn a_container_that_misses_pieces_v4() -> Result<()> {
    that_misses_pieces(CLIENT.v4(CLIENT_PORT))
}

#[test]
fn a_container_that_misses_pieces_v6() -> Result<()> {
    that_misses_pieces(CLIENT.v6(CLIENT_PORT))
}

/// It says so a second later.
fn that_misses_pieces(client: SocketAddr) -> Result<()> {
    without_its_pieces(client, "datagram_icmp_lost", |site| {
        sysctl(&site.container, "ipv4/ipfrag_time", "1")?;
        sysctl(&site.container, "ipv6/ip6frag_time", "1")?;
        nft(
            &site.container,
            "add table inet f
             add chain inet f first { type filter hook prerouting priority -450 ; }
             add rule inet f first ip frag-off & 0x1fff != 0 drop
             add rule inet f first frag frag-off != 0 drop",
        )
    })
}

/// What of a long datagram that doesn't reach its app by both paths is counted as, and doesn't leak.
fn without_its_pieces(
    client: SocketAddr,
    told: &str,
    change: impl Fn(&Site) -> Result<()>,
) -> Result<()> {
    for path in Path::BOTH {
        let site = Site::new(bridge, freely_and_masqueraded)?;
        let bind = WILDCARD.like(client, APP_PORT);
        let app = Echo::listen(&site.container, bind, Kind::Unconnected)?;
        let leaks = Leaks::watch(&site.lab.edge)?;
        let truepeer = site.truepeer().args(Framing::V2.args()).args(path.args());
        let _truepeer = truepeer.start()?;
        let balancer = datagrams::balancer(&site.lab, HOST.like(client, TRUEPEER_PORT))?;
        datagrams::asks(&balancer, &app, client, b"hello")?;
        change(&site)?;
        let header = Framing::V2.header(client, FRONT.like(client, FRONT_PORT));
        balancer.send(&[&header[..], &[7; 4000]].concat())?;
        poll::until("somebody to say that it is lost", || {
            let count = site.lab.shown("status")?["kernel"][told].as_u64();
            Ok((count > Some(0)).then_some(()))
        })?;
        leaks.saw_none().with_context(|| format!("told {path:?}"))?;
    }
    Ok(())
}
