//! The listeners: made on the host, one for each address and worker.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
};

use anyhow::Result;
use proxy_common::Listener;
use socket2::Socket;

use crate::{
    check,
    config::{self, Config, Protocol, Transport},
    kernel::{Claim, Kernel},
    relay::{Service, udp},
    sys,
};

/// What one worker listens at.
pub type Listeners = Vec<(Arc<Service>, std::net::TcpListener)>;

/// Claims every listen address before anything listens there: from the first moment on, nobody
/// outside the allowlist gets through. `served` is each service's, in the configuration's order.
pub fn claim(config: &Config, served: &[Listener], kernel: &mut Kernel) -> Result<Vec<Claim>> {
    addresses(config, served)
        .map(|(served, listen)| kernel.claim(listen, served))
        .collect()
}

/// Tells the programs what is known of the services by now.
pub fn update(
    config: &Config,
    served: &[Listener],
    claims: &[Claim],
    kernel: &mut Kernel,
) -> Result<()> {
    addresses(config, served)
        .zip(claims)
        .try_for_each(|((served, _), claim)| kernel.update(claim, served))
}

/// Opens all listeners and hands them to the claims; returns each worker's. Those in `left` go on:
/// connections wait in their queues.
pub fn listen(
    config: &Config,
    services: &[Arc<Service>],
    claims: &[Claim],
    kernel: &mut Kernel,
    mut left: HashMap<SocketAddr, Vec<Socket>>,
) -> Result<Vec<Listeners>> {
    let mut workers: Vec<Listeners> = (0..config.workers.get()).map(|_| Vec::new()).collect();
    // Alone first: SO_REUSEPORT would let us in beside somebody else's shared listener. Nobody else's is
    // beside those that the daemon before this one has at the port, be it at another address.
    let ours: HashSet<u16> = left.keys().map(SocketAddr::port).collect();
    for (_, listen) in addresses(config, services) {
        if !ours.contains(&listen.port()) {
            drop(open(config, listen, false)?);
        }
    }
    for ((service, listen), claim) in addresses(config, services).zip(claims) {
        let left = left.remove(&listen).unwrap_or_default();
        let sockets = open_shared(config, listen, workers.len(), left)?;
        // The kernel finds the others by the address they share.
        if let Some(any) = sockets.first() {
            kernel.serve(claim, any)?;
        }
        // There may be more of them than workers.
        for (number, socket) in sockets.into_iter().enumerate() {
            let number = number % workers.len();
            workers[number].push((service.clone(), socket.into()));
        }
    }
    Ok(workers)
}

fn open_shared(
    config: &Config,
    listen: SocketAddr,
    count: usize,
    mut left: Vec<Socket>,
) -> Result<Vec<Socket>> {
    if listen.is_ipv6() && !listens_v4(config, Transport::Tcp, listen.port()) {
        // One that hears no IPv4 never will.
        left.retain(|socket| socket.only_v6().is_ok_and(|only| !only));
    }
    while left.len() < count {
        left.push(open(config, listen, true)?);
    }
    Ok(left)
}

fn open(config: &Config, listen: SocketAddr, shared: bool) -> Result<Socket> {
    let socket = sys::listener(
        listen,
        shared,
        listens_v4(config, Transport::Tcp, listen.port()),
    );
    socket.map_err(|error| {
        let what = check::unusable(listen, Transport::Tcp, &error);
        anyhow::Error::from(error).context(what)
    })
}

/// Whether the address is free, without ever listening there.
pub fn probe(config: &Config, service: &config::Service, listen: SocketAddr) -> io::Result<()> {
    let only_v6 = listens_v4(config, service.transport(), listen.port());
    match service.protocol {
        Protocol::Tcp => sys::bound(listen, false, only_v6).map(drop),
        Protocol::Udp { .. } => udp::listener(listen, false, only_v6).map(drop),
    }
}

/// A listener on `[::]` hears IPv4 as well, unless the same port has an IPv4 listener of its own.
pub fn listens_v4(config: &Config, transport: Transport, port: u16) -> bool {
    let same = |service: &&config::Service| service.transport() == transport;
    let services = config.services.iter().filter(same);
    let mut listens = services.flat_map(|service| &service.listen);
    listens.any(|listen| listen.is_ipv4() && listen.port() == port)
}

/// Every listen address of TCP with its service, always in the same order.
fn addresses<'a, S>(
    config: &'a Config,
    services: &'a [S],
) -> impl Iterator<Item = (&'a S, SocketAddr)> {
    let each = config.services.iter().zip(services);
    let each = each.filter(|(config, _)| !config.is_udp());
    each.flat_map(|(config, service)| config.listen.iter().map(move |listen| (service, *listen)))
}
