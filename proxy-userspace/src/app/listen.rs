//! The listeners: made on the host, one for each address and worker.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use proxy_common::Listener;
use socket2::Socket;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use crate::{
    check,
    config::{self, Config, Protocol, Transport},
    kernel::{Claim, Kernel},
    relay::{
        Service,
        tcp::{Change, Listening},
        udp,
    },
    sys,
};

/// What one worker listens at.
pub type Listeners = Vec<Listening>;

/// The listen addresses of TCP that the programs know, and the workers who listen there.
#[derive(Default)]
pub struct Claims {
    claims: HashMap<SocketAddr, Claim>,
    workers: Vec<UnboundedSender<Change>>,
}

impl Claims {
    /// Claims every listen address before anything listens there: from the first moment on, nobody outside the
    /// allowlist gets through. `served` is each service's, in the configuration's order.
    pub fn new(config: &Config, served: &[Listener], kernel: &mut Kernel) -> Result<Self> {
        let mut claims = Self::default();
        for (served, listen) in addresses(config, served) {
            claims.claims.insert(listen, kernel.claim(listen, served)?);
        }
        Ok(claims)
    }

    /// Tells the programs what is known of the services by now.
    pub fn update(&self, config: &Config, served: &[Listener], kernel: &mut Kernel) -> Result<()> {
        addresses(config, served)
            .filter_map(|(served, listen)| Some((served, self.claims.get(&listen)?)))
            .try_for_each(|(served, claim)| kernel.update(claim, served))
    }

    /// These serve from here on.
    pub fn served_by(&mut self, workers: Vec<UnboundedSender<Change>>) {
        self.workers = workers;
    }

    /// Opens all listeners and hands them to the claims; returns each worker's. Those in `left` go on:
    /// connections wait in their queues.
    pub fn listen(
        &self,
        config: &Config,
        services: &[Arc<Service>],
        kernel: &mut Kernel,
        mut left: HashMap<SocketAddr, Vec<Socket>>,
    ) -> Result<Vec<Listeners>> {
        // Alone first: SO_REUSEPORT would let us in beside somebody else's shared listener. Nobody else's is
        // beside those that the daemon before this one has at the port, be it at another address.
        let ours: HashSet<u16> = left.keys().map(SocketAddr::port).collect();
        for (service, listen) in addresses(config, &config.services) {
            if !ours.contains(&listen.port()) {
                probe(config, service, listen).map_err(|error| unusable(listen, error))?;
            }
        }
        let mut workers: Vec<Listeners> = (0..config.workers.get()).map(|_| Vec::new()).collect();
        for (service, listen) in addresses(config, services) {
            let left = left.remove(&listen).unwrap_or_default();
            let sockets = self.open(config, listen, left)?;
            if let Some(any) = sockets.first() {
                self.give(listen, any, kernel)?;
            }
            // There may be more of them than workers.
            for (number, socket) in sockets.into_iter().enumerate() {
                let number = number % workers.len();
                workers[number].push(listening(service, listen, socket));
            }
        }
        Ok(workers)
    }

    /// One for each worker.
    fn open(
        &self,
        config: &Config,
        listen: SocketAddr,
        mut sockets: Vec<Socket>,
    ) -> Result<Vec<Socket>> {
        if listen.is_ipv6() && !listens_v4(config, Transport::Tcp, listen.port()) {
            // One that hears no IPv4 never will.
            sockets.retain(|socket| socket.only_v6().is_ok_and(|only| !only));
        }
        let is_shared = config.shares_listen(listen);
        sockets.retain(|socket| (own(socket) == Some(listen)) != is_shared);
        while sockets.len() < config.workers.get() {
            let at = match sockets.first().and_then(own) {
                Some(others) => others,
                None if is_shared => elsewhere(listen),
                None => listen,
            };
            let only_v6 = listens_v4(config, Transport::Tcp, listen.port());
            let socket = sys::listener(at, true, only_v6);
            sockets.push(socket.map_err(|error| unusable(listen, error))?);
        }
        Ok(sockets)
    }

    /// The kernel finds the others by the address they share.
    fn give(&self, listen: SocketAddr, any: &impl AsRawFd, kernel: &mut Kernel) -> Result<()> {
        let claim = self.claims.get(&listen);
        let claim = claim.with_context(|| format!("{listen} isn't claimed"))?;
        kernel.serve(claim, any)
    }

    /// The same at addresses of services that come while others are served: all or none. Whoever connects is refused
    /// until [`Self::serve`].
    pub fn add(
        &mut self,
        config: &Config,
        (services, served): (&[Arc<Service>], &[Listener]),
        new: &[SocketAddr],
        kernel: &mut Kernel,
    ) -> Result<Vec<Listeners>> {
        let ours: HashSet<u16> = self.claims.keys().map(SocketAddr::port).collect();
        for (service, listen) in addresses(config, &config.services) {
            // Nothing is claimed that is somebody else's.
            if new.contains(&listen) && !ours.contains(&listen.port()) {
                probe(config, service, listen).map_err(|error| unusable(listen, error))?;
            }
        }
        let opened = self.try_add(config, (services, served), new, kernel);
        if opened.is_err() {
            for listen in new {
                self.remove(*listen, kernel)?;
            }
        }
        opened
    }

    fn try_add(
        &mut self,
        config: &Config,
        (services, served): (&[Arc<Service>], &[Listener]),
        new: &[SocketAddr],
        kernel: &mut Kernel,
    ) -> Result<Vec<Listeners>> {
        let mut workers: Vec<Listeners> = self.workers.iter().map(|_| Vec::new()).collect();
        let each = addresses(config, services).zip(addresses(config, served));
        for ((service, listen), (served, _)) in each.filter(|((_, at), _)| new.contains(at)) {
            self.claims.insert(listen, kernel.claim(listen, served)?);
            let sockets = self.open(config, listen, Vec::new())?;
            for (worker, socket) in workers.iter_mut().zip(sockets) {
                worker.push(listening(service, listen, socket));
            }
        }
        Ok(workers)
    }

    /// Has the workers serve what [`Self::add`] has opened, and each address as its service has it now.
    pub fn serve(
        &self,
        config: &Config,
        services: &[Arc<Service>],
        opened: Vec<Listeners>,
        kernel: &mut Kernel,
    ) -> Result<()> {
        for listening in opened.first().into_iter().flatten() {
            self.give(listening.at, &listening.socket, kernel)?;
        }
        for (worker, listeners) in self.workers.iter().zip(opened) {
            for listening in listeners {
                tell(worker, Change::Listen(listening));
            }
            for (service, listen) in addresses(config, services) {
                tell(worker, Change::Serve(listen, service.clone()));
            }
        }
        Ok(())
    }

    /// Nobody gets in at these any more; who has got in goes on. Until nothing listens there, whoever tries is
    /// refused.
    pub async fn close(&mut self, old: &[SocketAddr], kernel: &mut Kernel) -> Result<()> {
        let mut closed = Vec::new();
        for listen in old {
            if let Some(claim) = self.claims.get(listen) {
                kernel.refuse(claim)?;
            }
            for worker in &self.workers {
                let (told, closes) = oneshot::channel();
                tell(worker, Change::Close(*listen, told));
                closed.push(closes);
            }
        }
        join_all(closed).await;
        old.iter()
            .try_for_each(|listen| self.remove(*listen, kernel))
    }

    fn remove(&mut self, listen: SocketAddr, kernel: &mut Kernel) -> Result<()> {
        match self.claims.remove(&listen) {
            Some(claim) => kernel.unclaim(claim),
            None => Ok(()),
        }
    }
}

/// A worker that has ended is noticed by who waits for it.
fn tell(worker: &UnboundedSender<Change>, change: Change) {
    if worker.send(change).is_err() {
        tracing::debug!("a worker has ended");
    }
}

fn listening(service: &Arc<Service>, at: SocketAddr, socket: Socket) -> Listening {
    Listening {
        service: service.clone(),
        at,
        socket: socket.into(),
    }
}

fn own(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}

/// Any port, where nobody but this host itself can come. An address that is left to the application is none of ours to
/// bind to: sk_lookup finds a socket wherever it is.
fn elsewhere(listen: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match listen {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(loopback, 0)
}

fn unusable(listen: SocketAddr, error: io::Error) -> anyhow::Error {
    let what = check::unusable(listen, Transport::Tcp, &error);
    anyhow::Error::from(error).context(what)
}

/// Whether the address is free, without ever listening there; or whether it is one at all, if the application may
/// listen there.
pub fn probe(config: &Config, service: &config::Service, listen: SocketAddr) -> io::Result<()> {
    match service.protocol {
        Protocol::Tcp if service.shares_listen() => bound(config, SocketAddr::new(listen.ip(), 0)),
        Protocol::Tcp => bound(config, listen),
        Protocol::Udp { .. } => {
            let only_v6 = listens_v4(config, Transport::Udp, listen.port());
            udp::listener(listen, false, only_v6).map(drop)
        }
    }
}

fn bound(config: &Config, listen: SocketAddr) -> io::Result<()> {
    let only_v6 = listens_v4(config, Transport::Tcp, listen.port());
    sys::bound(listen, false, only_v6).map(drop)
}

/// A listener on `[::]` hears IPv4 as well, unless the same port has an IPv4 listener of its own.
pub fn listens_v4(config: &Config, transport: Transport, port: u16) -> bool {
    let mut listens = config.listens(transport);
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
