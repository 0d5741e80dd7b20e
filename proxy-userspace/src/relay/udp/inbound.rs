//! From a balancer to the application.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
};

use super::{At, Flow, Framing, Hearing, LARGEST, Noted, Speaks, socket};
use crate::{
    header::{self, Header, Refusal, spp},
    relay::{Balancer, Client, End, Martian, Own, Service, policy::Way},
};

/// Until the future is dropped.
pub async fn serve(at: Rc<At>, from: Rc<Hearing>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let received = socket::receive(&from.listener, Some(from.at()), &mut buffer).await;
        let (service, framing) = from.service.borrow().clone();
        match received {
            Ok(received) => {
                let datagram = Datagram {
                    balancer: Balancer(received.from),
                    received_at: received.to,
                    device: received.device,
                    class: received.class,
                    bytes: &buffer[..received.len],
                };
                take(&at, &service, framing, &datagram).await;
            }
            // An earlier reply's port was unreachable: nothing that concerns what is to come.
            Err(error) => tracing::debug!(service = service.name, %error, "receiving"),
        }
    }
}

struct Datagram<'a> {
    balancer: Balancer,
    received_at: SocketAddr,
    /// The index of the one that it came by.
    device: u32,
    /// DSCP and ECN.
    class: u8,
    bytes: &'a [u8],
}

async fn take(at: &At, service: &Service, framing: Framing, datagram: &Datagram<'_>) {
    let balancer = datagram.balancer;
    // By `lo` there is no program that asks.
    if !at.shared.admission.allows(service, balancer) {
        return;
    }
    let (from, device) = (balancer.0.ip(), datagram.device);
    // By a device, the programs let nothing come from an address of the host's own.
    let is_own = at.shared.own.find(&from) == Some(Own::Unicast);
    if !is_own && !at.reverse_paths.leads(&*at.flows, from, device).await {
        let end = End::ReversePath {
            balancer: from,
            device,
        };
        return at.shared.report.ended(service, balancer, &end);
    }
    let to = datagram.received_at.ip();
    if is_everybodys(at, to) {
        let end = End::ToEverybody(to);
        return at.shared.report.ended(service, balancer, &end);
    }
    match forward(at, service, framing, datagram) {
        Ok(Ok(())) => {}
        Ok(Err(end)) => at.shared.report.ended(service, balancer, &end),
        Err(error) => {
            tracing::debug!(service = service.name, %balancer, %error, "a datagram is lost")
        }
    }
}

/// A socket at a wildcard address hears what is sent to all hosts of a link, too.
fn is_everybodys(at: &At, address: IpAddr) -> bool {
    address.is_multicast()
        || address == Ipv4Addr::BROADCAST
        || at.shared.own.find(&address) == Some(Own::Broadcast)
}

fn forward(
    at: &At,
    service: &Service,
    framing: Framing,
    datagram: &Datagram<'_>,
) -> io::Result<Result<(), End>> {
    let Datagram {
        balancer,
        received_at,
        bytes,
        ..
    } = *datagram;
    let known = speaks_for(at, service, framing, datagram)?;
    // None: the datagram's own header says.
    let speaks_for = match known {
        Speaks::Nobody => None,
        Speaks::InPieces(client) if names(service, framing, bytes, client) => None,
        Speaks::For(client) | Speaks::InPieces(client) => Some(client),
        Speaks::Forgotten => return Ok(Err(End::Forgotten)),
    };
    let (claimed, stated, payload) = match speaks_for {
        // Only SPP's replies say where, and it has a header in front of each datagram.
        Some(client) => (Some(client), received_at, bytes),
        None => match read(service, framing, bytes) {
            Ok((header, len)) => {
                let endpoints = header.endpoints;
                let stated = endpoints.map_or(received_at, |it| it.destination);
                (claimed(&header), stated, &bytes[len..])
            }
            Err(refusal) => {
                // Not of one whose first piece has named a client: it may be his own.
                if framing == Framing::V2First && known == Speaks::Nobody {
                    at.flows.leave_undecided(service, balancer, received_at)?;
                }
                return Ok(Err(End::Header(refusal)));
            }
        },
    };
    let forwarded = send_on(at, service, datagram, claimed, stated, payload);
    // Should the client be refused, what he sends next is payload all the same. The flow is noted before, lest
    // the programs send on what comes behind this one first.
    if framing == Framing::V2First
        && speaks_for.is_none()
        && let Some(client) = claimed
    {
        at.flows
            .note_first(service, balancer, received_at, client)?;
    }
    forwarded
}

fn claimed(header: &Header<'_>) -> Option<Client> {
    let endpoints = header.endpoints.as_ref();
    endpoints.map(|it| Client(it.canonical().source))
}

/// Whether it is the datagram whose first piece has named the client.
fn names(service: &Service, framing: Framing, bytes: &[u8], client: Client) -> bool {
    match read(service, framing, bytes) {
        Ok((header, _)) => claimed(&header) == Some(client),
        // Another one can't be read.
        Err(_) => bytes.starts_with(&proxy_common::header::v2::SIGNATURE),
    }
}

fn send_on(
    at: &At,
    service: &Service,
    datagram: &Datagram<'_>,
    claimed: Option<Client>,
    stated: SocketAddr,
    payload: &[u8],
) -> io::Result<Result<(), End>> {
    let balancer = datagram.balancer;
    let way = match Way::find(claimed, balancer, service, &*at.shared.own) {
        Ok(way) => way,
        Err(end) => return Ok(Err(end)),
    };
    let client = way.client;
    if let Some(martian) = martian(&way) {
        return Ok(Err(End::Client { client, martian }));
    }
    if claimed.is_some() && at.shared.admission.denies(service, client) {
        return Ok(Err(End::Denied(client)));
    }
    let flow = Flow {
        balancer,
        received_at: datagram.received_at,
        client,
        aim: way.route.steered,
        stated,
        is_local: claimed.is_none(),
    };
    match at.flows.note(service, &flow, payload.len())? {
        Noted::Yes => {}
        Noted::Taken => return Ok(Err(End::Taken(client))),
        Noted::Full => return Ok(Ok(())),
        Noted::Drained => return Ok(Err(End::Drained)),
    }
    let is_beyond = at.shared.own.find(&flow.aim.ip()).is_none();
    at.injector
        .send(client.0, flow.aim, payload, datagram.class, is_beyond)?;
    Ok(Ok(()))
}

fn speaks_for(
    at: &At,
    service: &Service,
    framing: Framing,
    datagram: &Datagram<'_>,
) -> io::Result<Speaks> {
    match framing {
        Framing::V2First => {
            let Datagram {
                balancer,
                received_at,
                ..
            } = *datagram;
            at.flows.first(service, balancer, received_at)
        }
        Framing::V2 | Framing::Spp => Ok(Speaks::Nobody),
    }
}

fn martian(way: &Way) -> Option<Martian> {
    if way.client.0.port() == 0 {
        return Some(Martian::NoPort);
    }
    way.martian
}

fn read<'a>(
    service: &Service,
    framing: Framing,
    bytes: &'a [u8],
) -> Result<(Header<'a>, usize), Refusal> {
    match framing {
        Framing::V2 | Framing::V2First => header::parse_datagram(bytes, &service.policy),
        Framing::Spp => spp::parse(bytes),
    }
}
