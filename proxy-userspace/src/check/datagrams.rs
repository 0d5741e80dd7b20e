//! A datagram to each application of UDP, from a spoofed client: whether somebody is there, whether it gets
//! there, whether the socket takes it, and whether an answer comes back. Each is said by itself.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use proxy_common::{Steered, datagram::Receiver, shares::RingSizes};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{sync::oneshot, time::sleep};

use super::{Finding, routes::nobody, steering::Steering, targets::by_one_device};
use crate::{
    config::{CloseAfter, Config, Service},
    facts::Bound,
    kernel::{AimedAt, Datagrams, FlowEnds},
    netns::{Entrance, SpoofNs, UdpSockets, Way, has_route_by, way_to},
    relay::udp::{Catchers, Forwarder, Probe},
};

/// Applications that answer at all do so at once.
const PATIENCE: Duration = Duration::from_secs(2);
const SPOOFED: &str = "spoofed";
const LOOK: Duration = Duration::from_millis(100);

/// Of all services; the programs are there.
pub async fn check(
    config: &Config,
    steering: &mut Steering,
    bound: &Bound,
) -> Result<Vec<Finding>> {
    let services = config.services.iter().filter(|service| service.is_udp());
    let each = services.flat_map(|service| service.targets().map(move |at| (service, at)));
    let mut ways = Vec::new();
    for (service, target) in each {
        if let Some(route) = steering.route(target, service.transport()) {
            ways.push((service, target, route.steered));
        }
    }
    if ways.is_empty() {
        return Ok(Vec::new());
    }
    let maps = Arc::new(steering.datagrams()?);
    let aimed_at = |(_, target, aim): &(&Service, SocketAddr, SocketAddr)| AimedAt {
        target: *target,
        aim: *aim,
        // The host stays as it is.
        is_exclusive: false,
    };
    maps.aim_at(&ways.iter().map(aimed_at).collect::<Vec<_>>())?;
    let mut findings = Vec::new();
    for (service, target, aim) in ways {
        let entrance = bound.get(&target).map(|app| &app.entrance);
        let found = of_target(steering, &maps, (target, aim), entrance).await?;
        let found = found.into_iter().chain(outsiders(service, target).await?);
        findings.extend(found.map(|finding| finding.of(&service.name, Some(target))));
    }
    Ok(findings)
}

/// Who hasn't chosen is told what there is to choose.
async fn outsiders(service: &Service, target: SocketAddr) -> Result<Option<Finding>> {
    let is_open = service.is_udp() && service.outsiders.is_none();
    if !is_open || target.ip().is_loopback() || !matches!(way_to(target.ip()).await?, Way::Here) {
        return Ok(None);
    }
    Ok(Some(Finding::warn(
        "outsiders",
        "others than balancers' clients reach the application too, so that what it still has to say to a \
         client that is forgotten leaves for the client itself",
        "--outsiders refuse, if nobody but balancers' clients and this host uses it; --outsiders app, if it is \
         to stay so",
    )))
}

async fn of_target(
    steering: &Steering,
    maps: &Arc<Datagrams>,
    (target, aim): (SocketAddr, SocketAddr),
    entrance: Option<&Entrance>,
) -> Result<Vec<Finding>> {
    let beyond = match way_to(target.ip()).await? {
        Way::Out(hop) => Some(hop.device),
        Way::Here | Way::Broadcast | Way::Nowhere(_) => None,
    };
    let mut sockets = UdpSockets::open()?;
    let before = sockets.lost_at(target)?;
    if beyond.is_none() && before.is_empty() {
        let next = "start the application, or correct the target";
        return Ok(vec![Finding::fail(
            "target",
            "no UDP socket hears anybody there",
            next,
        )]);
    }
    let [v4, v6] = nobody();
    let client = SocketAddr::new(if aim.is_ipv4() { v4 } else { v6 }, any_port()?);
    let question = Question {
        client,
        aim,
        is_beyond: beyond.is_some(),
    };
    let (heard, answered) = ask(steering.spoof(), maps.clone(), question).await?;
    if let Some(device) = beyond
        && !heard
    {
        return Ok(vec![beyond_answer(client, &device, answered)]);
    }
    let has_lost = sockets.lost_at(target)?.iter().sum::<u32>() > before.iter().sum();
    let own = sockets.connected_to(client, target.port())?;
    let reply = || match own.filter(|own| *own != aim.ip()) {
        Some(own) => of_another(target, own),
        None => reply(target, answered),
    };
    let may_answer = may_answer(client.ip(), entrance).await;
    let spoofed = match entrance {
        Some(entrance) if !heard || !may_answer => by_one_device(entrance, client.ip()).await,
        _ => spoofed(client, heard),
    };
    Ok([listens(entrance), spoofed]
        .into_iter()
        .chain(heard.then(|| room(has_lost)))
        .chain((heard && may_answer).then(reply))
        .collect())
}

fn listens(entrance: Option<&Entrance>) -> Finding {
    let there = "the application has a UDP socket there";
    Finding::ok(
        "target",
        match entrance {
            Some(Entrance { name, .. }) => format!("{there}, by {name} alone"),
            None => there.into(),
        },
    )
}

/// At a device that a socket is bound to, the kernel takes anybody of IPv4 for a neighbour. Nobody has to be asked for by
/// `lo`.
async fn may_answer(client: IpAddr, entrance: Option<&Entrance>) -> bool {
    match entrance {
        Some(Entrance { name, .. }) if client.is_ipv4() && name == "lo" => true,
        Some(entrance) => matches!(has_route_by(client, entrance.index).await, Ok(true)),
        None => true,
    }
}

/// Of an application beyond this host, where nobody can look into its socket.
fn beyond_answer(client: SocketAddr, device: &str, answered: bool) -> Finding {
    let client = client.ip();
    if answered {
        let message = format!("a datagram from client {client} left by {device}, and was answered");
        return Finding::ok(SPOOFED, message);
    }
    Finding::warn(
        SPOOFED,
        format!(
            "datagrams from client {client} left by {device}, and none was answered: whether they arrived can't be \
             told from here"
        ),
        "see whether the application is there, takes packets from any client, and answers through this host; \
         one that has nothing to say to a datagram without a byte may well be right",
    )
}

fn spoofed(client: SocketAddr, heard: bool) -> Finding {
    let client = client.ip();
    if heard {
        let message = format!("a datagram from client {client} reached its socket");
        return Finding::ok(SPOOFED, message);
    }
    Finding::fail(
        SPOOFED,
        format!("a datagram from client {client} didn't reach its socket"),
        "let the firewall accept UDP packets from any client to the application by lo and truepeer*; see \
         the firewall and rp_filter lines",
    )
}

/// A datagram that has reached a socket is lost there if others wait that nobody reads.
fn room(has_lost: bool) -> Finding {
    const SUBJECT: &str = "socket";
    if has_lost {
        return Finding::warn(
            SUBJECT,
            "it loses datagrams, as it has no room for them",
            "see why the application doesn't read, or give it a larger receive buffer",
        );
    }
    Finding::ok(SUBJECT, "it took the datagram, and has lost none meanwhile")
}

const REPLY: &str = "reply";

/// Of an application that has connected a socket to the client, at `own`, which isn't what clients are sent to.
fn of_another(target: SocketAddr, own: IpAddr) -> Finding {
    let own = SocketAddr::new(own, target.port());
    let next = match own.ip().is_loopback() {
        true => {
            "have it listen at an address of the host's, and give that as the target".to_owned()
        }
        false => format!("give {own} as the target"),
    };
    Finding::warn(
        REPLY,
        format!(
            "the application has connected a socket to the client, at {own}: its answer goes back, but the client's \
             next datagrams don't come to that socket"
        ),
        next,
    )
}

fn reply(target: SocketAddr, answered: bool) -> Finding {
    if answered {
        return Finding::ok(REPLY, "its answer came back");
    }
    let none = "none came to a datagram without a byte, which may well be right";
    // The kernel refuses it in IPv4 alone.
    match target.is_ipv4() && target.ip().is_loopback() {
        false => Finding::ok(REPLY, none),
        true => Finding::ok(
            REPLY,
            format!(
                "{none}; an application that connects a socket to each client can't do so at {}",
                target.ip()
            ),
        ),
    }
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A client's. Another one each time, as who tells of a datagram doesn't know network namespaces, and
/// somebody may check in a container.
fn any_port() -> Result<u16> {
    let mut bytes = [0; 2];
    getrandom(&mut bytes, GetRandomFlags::empty()).context("a port for a client")?;
    Ok(u16::from_ne_bytes(bytes) | 1 << 15)
}

/// Of a client that isn't there, to an application.
#[derive(Clone, Copy)]
struct Question {
    client: SocketAddr,
    aim: SocketAddr,
    is_beyond: bool,
}

/// Whether its socket gets a datagram, and whether an answer comes. On a thread of its own, as it ends in the
/// spoof namespace.
async fn ask(
    spoof: &Arc<SpoofNs>,
    maps: Arc<Datagrams>,
    question: Question,
) -> Result<(bool, bool)> {
    let (done, outcome) = oneshot::channel();
    let spoof = spoof.clone();
    thread::spawn(move || done.send(ask_inside(&spoof, &maps, question)));
    outcome.await.context("the thread of a check")?
}

fn ask_inside(spoof: &SpoofNs, maps: &Datagrams, question: Question) -> Result<(bool, bool)> {
    let Question {
        client,
        aim,
        is_beyond,
    } = question;
    let forwarder = Forwarder::open()?;
    spoof.enter()?;
    let catchers = Catchers::open(spoof.families.v6)?;
    maps.catch(catchers.sockets())?;
    let ends = FlowEnds {
        // Nothing is sent there: answers are caught, and no way leads there for errors.
        balancer: SocketAddr::new(loopback(aim.ip()), client.port()),
        received_at: aim,
        client,
        aim,
        stated: aim,
        is_local: false,
    };
    let none = Steered::default();
    let close_after = CloseAfter::MINUTE.seconds();
    let caught = Receiver::new(0, Receiver::V2, close_after, RingSizes::MOST, none, none);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("a runtime")?.block_on(async {
        let probe = Probe::new(catchers, forwarder)?;
        maps.note(&ends, &caught, 0)?;
        let begun = Instant::now();
        while !maps.is_heard(aim, client) && begun.elapsed() < PATIENCE {
            // Again, as the first one may come before the kernel is through with what is new.
            probe.send(client, aim, is_beyond)?;
            sleep(LOOK).await;
        }
        let heard = maps.is_heard(aim, client);
        Ok((
            heard,
            (heard || is_beyond) && probe.is_answered(client, aim, PATIENCE).await,
        ))
    })
}
