//! Apps that are not on this host, but whose way out it is: containers and namespaces behind a
//! bridge or a veth, and servers on a LAN that have it as their gateway. Nothing is changed there.

mod errors;
mod udp;

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::site::{ip, nft, sysctl};
use super::{CLIENT_PORT, Talk, datagrams, sees};
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::{App, Echo};
use crate::lab::datagram::{self, Framing, Kind};
use crate::lab::header::Version;
use crate::lab::leaks::{Leaks, Watched};
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::stream::{expect_reset, read_greeting, round_trip};
use crate::lab::truepeer::Truepeer;

/// What is behind the host.
pub const BEHIND: [&str; 2] = ["10.80.0.2", "fd80::2"];

/// How the host forwards, which must not matter.
type Forwarding = fn(&Lab) -> Result<()>;
/// How a namespace is joined to the host: the host's side is 10.80.0.1 and fd80::1.
/// Returns the router in between, if there is one.
type Joint = fn(&Lab, &Netns) -> Result<Option<Netns>>;

macro_rules! elsewhere {
    ($($joint:ident: $($forwarding:ident)*;)*) => { $(
        mod $joint {
            $(mod $forwarding {
                use super::super::*;
                #[test] fn v4() -> Result<()> {
                    seen_behind($joint, $forwarding, WILDCARD.v4(APP_PORT), CLIENT.v4(CLIENT_PORT))
                }
                #[test] fn v6() -> Result<()> {
                    seen_behind($joint, $forwarding, WILDCARD.v6(APP_PORT), CLIENT.v6(CLIENT_PORT))
                }
                #[test] fn udp_v4() -> Result<()> {
                    datagrams_behind($joint, $forwarding, CLIENT.v4(CLIENT_PORT))
                }
                #[test] fn udp_v6() -> Result<()> {
                    datagrams_behind($joint, $forwarding, CLIENT.v6(CLIENT_PORT))
                }
                #[test] fn address_v4() -> Result<()> {
                    seen_behind($joint, $forwarding, behind(CLIENT.v4(0)), CLIENT.v4(CLIENT_PORT))
                }
            })*
        }
    )* };
}

elsewhere! {
    veth: not_at_all past_a_drop freely_and_masqueraded;
    bridge: not_at_all past_a_drop freely_and_masqueraded;
    lan_router: not_at_all past_a_drop;
}

fn not_at_all(lab: &Lab) -> Result<()> {
    sysctl(&lab.host, "ipv4/ip_forward", "0")?;
    sysctl(&lab.host, "ipv6/conf/all/forwarding", "0")
}

fn past_a_drop(lab: &Lab) -> Result<()> {
    let drop = "add table inet through
        add chain inet through forward { type filter hook forward priority 0 ; policy drop ; }";
    not_at_all(lab)?;
    nft(&lab.host, drop)
}

fn freely_and_masqueraded(lab: &Lab) -> Result<()> {
    let masquerade = "add table inet hide
        add chain inet hide post { type nat hook postrouting priority 100 ; }
        add rule inet hide post oifname edge masquerade";
    sysctl(&lab.host, "ipv4/ip_forward", "1")?;
    sysctl(&lab.host, "ipv6/conf/all/forwarding", "1")?;
    nft(&lab.host, masquerade)
}

fn veth(lab: &Lab, behind: &Netns) -> Result<Option<Netns>> {
    add_veth(lab, behind)?;
    as_gateway(&lab.host, "behind")?;
    in_the_container(behind)?;
    Ok(None)
}

/// A container of another test's lab, at [`BEHIND`].
pub fn container_behind(lab: &Lab) -> Result<Netns> {
    let container = Netns::new("container")?;
    veth(lab, &container)?;
    Ok(container)
}

fn bridge(lab: &Lab, behind: &Netns) -> Result<Option<Netns>> {
    add_veth(lab, behind)?;
    ip(
        &lab.host,
        "link add name bridge type bridge
         link set bridge up addrgenmode none
         link set behind master bridge",
    )?;
    as_gateway(&lab.host, "bridge")?;
    in_the_container(behind)?;
    Ok(None)
}

/// The server is one router further on.
fn lan_router(lab: &Lab, behind: &Netns) -> Result<Option<Netns>> {
    let router = Netns::new("router")?;
    add_veth(lab, &router)?;
    ip(
        &lab.host,
        "address add fe80::1/64 dev behind nodad
         address add 10.81.0.1/24 dev behind
         address add fd81::1/64 dev behind nodad
         route add 10.80.0.0/24 via 10.81.0.2
         route add fd80::/64 via fd81::2",
    )?;
    router.ip(&format!(
        "address add fe80::2/64 dev lan nodad
         address add 10.81.0.2/24 dev lan
         address add fd81::2/64 dev lan nodad
         route add default via 10.81.0.1
         route add default via fd81::1
         link add inner type veth peer name lan netns {}
         link set inner up addrgenmode none
         address add fe80::1/64 dev inner nodad",
        behind.path().display()
    ))?;
    sysctl(&router, "ipv4/ip_forward", "1")?;
    sysctl(&router, "ipv6/conf/all/forwarding", "1")?;
    router.ip("address add 10.80.0.1/24 dev inner
         address add fd80::1/64 dev inner nodad")?;
    in_the_container(behind)?;
    Ok(Some(router))
}

fn add_veth(lab: &Lab, netns: &Netns) -> Result<()> {
    lab.host.ip(&format!(
        "link add behind type veth peer name lan netns {}
         link set behind up addrgenmode none",
        netns.path().display()
    ))?;
    netns.ip("link set lan up addrgenmode none")
}

fn as_gateway(host: &Netns, device: &str) -> Result<()> {
    host.ip(&format!(
        "address add fe80::1/64 dev {device} nodad
         address add 10.80.0.1/24 dev {device}
         address add fd80::1/64 dev {device} nodad"
    ))
}

fn in_the_container(behind: &Netns) -> Result<()> {
    behind.ip("link set lan up addrgenmode none
         address add fe80::2/64 dev lan nodad
         address add 10.80.0.2/24 dev lan
         address add fd80::2/64 dev lan nodad
         route add default via 10.80.0.1
         route add default via fd80::1")
}

fn behind(family: SocketAddr) -> SocketAddr {
    let [v4, v6] = BEHIND;
    let text = if family.is_ipv4() { v4 } else { v6 };
    SocketAddr::new(text.parse().expect("an address"), APP_PORT)
}

struct Site {
    lab: Watched,
    container: Netns,
    _router: Option<Netns>,
}

impl Site {
    fn new(joint: Joint, forwarding: Forwarding) -> Result<Self> {
        let lab = Watched::new()?;
        let container = Netns::new("container")?;
        let _router = joint(&lab, &container).context("joining it to the host")?;
        forwarding(&lab)?;
        Ok(Self {
            lab,
            container,
            _router,
        })
    }

    fn start(&self) -> Result<Proc> {
        self.truepeer().start()
    }

    fn truepeer(&self) -> Truepeer {
        let targets = CLIENT.both(0).map(behind);
        let truepeer = self.lab.truepeer().no_targets();
        let truepeer = truepeer.args(["--target4", &targets[0].to_string()]);
        let truepeer = truepeer.args(["--target6", &targets[1].to_string()]);
        truepeer.listen(HOST.both(TRUEPEER_PORT))
    }
}

fn seen_behind(
    joint: Joint,
    forwarding: Forwarding,
    bind: SocketAddr,
    client: SocketAddr,
) -> Result<()> {
    let site = Site::new(joint, forwarding)?;
    let app = App::listen(&site.container, bind)?;
    let _truepeer = site.start()?;
    sees(&site.lab, &app, client)?;
    let next = SocketAddr::new(client.ip(), CLIENT_PORT + 1);
    Talk::open(&site.lab, &app, next, Version::V2)?.bulk()
}

/// By both paths: datagrams, and answers in pieces; what the app's way takes only in pieces, too. With
/// nobody there, the balancer hears so, until an app is at the container's address alone.
fn datagrams_behind(joint: Joint, forwarding: Forwarding, client: SocketAddr) -> Result<()> {
    for path in Path::BOTH {
        let site = Site::new(joint, forwarding)?;
        let bind = WILDCARD.like(client, APP_PORT);
        let app = datagram::Echo::listen(&site.container, bind, Kind::Unconnected)?;
        let truepeer = site.truepeer().args(Framing::V2.args()).args(path.args());
        let leaks = Leaks::watch(&site.lab.edge)?;
        let _truepeer = truepeer.start()?;
        for service in HOST.both(TRUEPEER_PORT) {
            datagrams::sees(&site.lab, service, &app, client)?;
        }
        let service = HOST.like(client, TRUEPEER_PORT);
        let balancer = datagrams::balancer(&site.lab, service)?;
        let client = SocketAddr::new(client.ip(), CLIENT_PORT + 2);
        datagrams::asks(&balancer, &app, client, &[7; 8000]).context("in pieces")?;
        drop(app);
        datagrams::hears_that_nobody_is_there(&balancer, client)?;
        let app = datagram::Echo::listen(&site.container, behind(client), Kind::Unconnected)?;
        datagrams::asks(&balancer, &app, client, b"at its address")?;
        leaks.saw_none().with_context(|| format!("told {path:?}"))?;
    }
    Ok(())
}

#[test]
fn a_client_with_the_container_s_address_v4() -> Result<()> {
    with_its_own_address(CLIENT.v4(CLIENT_PORT))
}

#[test]
fn a_client_with_the_container_s_address_v6() -> Result<()> {
    with_its_own_address(CLIENT.v6(CLIENT_PORT))
}

/// It would answer itself, and itself again.
fn with_its_own_address(client: SocketAddr) -> Result<()> {
    let header = Version::V2.header(behind(client), FRONT.like(client, FRONT_PORT));
    let site = Site::new(veth, not_at_all)?;
    let truepeer = site.start()?;
    expect_reset(
        &mut site
            .lab
            .balancer_to(HOST.like(client, TRUEPEER_PORT), &header)?,
    )?;
    truepeer.wait_line("client_target_address")?;
    drop(truepeer);
    for path in Path::BOTH {
        let bind = WILDCARD.like(client, APP_PORT);
        let app = datagram::Echo::listen(&site.container, bind, Kind::Unconnected)?;
        let truepeer = site.truepeer().args(Framing::V2.args()).args(path.args());
        let _truepeer = truepeer.start()?;
        let balancer = datagram::socket(&site.lab.edge, BALANCER.like(client, 0))?;
        balancer.connect(HOST.like(client, TRUEPEER_PORT))?;
        let header = Framing::V2.header(behind(client), FRONT.like(client, FRONT_PORT));
        balancer.send(&[&header[..], b"hello"].concat())?;
        poll::until("the client to be refused", || {
            let ended = site.lab.counts()?["ended"]["client_target_address"].take();
            Ok((ended == 1).then_some(()))
        })?;
        app.saw_nobody()?;
        datagrams::asks(&balancer, &app, client, b"hello")?;
    }
    Ok(())
}

/// The container's own connections go out through the masquerade as ever, also to an address that
/// is a client of its app at the same time.
#[test]
fn outbound_connections_go_on_as_before() -> Result<()> {
    let site = Site::new(bridge, freely_and_masqueraded)?;
    let lab = &site.lab;
    let far = FRONT.both(9000);
    let _echoes = [
        Echo::greeting(&lab.edge, far[0])?,
        Echo::greeting(&lab.edge, far[1])?,
    ];
    let app = App::listen(&site.container, WILDCARD.v6(APP_PORT))?;
    let connect = |far: SocketAddr| -> Result<_> {
        let own = SocketAddr::new(behind(far).ip(), 0);
        let mut stream = site.container.connect_from(own, far)?;
        let seen = read_greeting(&mut stream)?.ip();
        assert_eq!(seen, HOST.like(far, 0).ip(), "not masqueraded");
        round_trip(&mut stream, b"outbound")?;
        Ok(stream)
    };
    let mut before = far.map(|far| connect(far).expect("it works without truepeer"));
    let _truepeer = site.start()?;
    for client in CLIENT.both(CLIENT_PORT) {
        sees(lab, &app, client)?;
    }
    for stream in &mut before {
        round_trip(stream, b"still outbound")?;
    }
    for far in far {
        connect(far).context("with truepeer")?;
    }
    Ok(())
}

/// Whoever reaches the app directly goes on to do so.
#[test]
fn direct_connections_to_the_app_go_on() -> Result<()> {
    let site = Site::new(veth, freely_and_masqueraded)?;
    let _app = Echo::greeting(&site.container, WILDCARD.v6(APP_PORT))?;
    let _truepeer = site.start()?;
    for near in HOST.both(0) {
        let own = behind(near);
        let mut stream = site.lab.host.connect_from(
            SocketAddr::new(
                if near.is_ipv4() {
                    "10.80.0.1"
                } else {
                    "fd80::1"
                }
                .parse()?,
                0,
            ),
            own,
        )?;
        read_greeting(&mut stream)?;
        round_trip(&mut stream, b"direct")?;
    }
    Ok(())
}
