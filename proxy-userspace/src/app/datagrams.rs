//! UDP while it runs: who receives, and the thread for what the programs leave to the daemon.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use proxy_common::{
    datagram::{self, Traffic},
    datagram_port_bit, exclusive_port_bit,
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    connections::{self, Open},
    listen,
    routes::{Routes, steered},
    workers::{Workers, on_thread},
};
use crate::{
    admin::{Clients, ConnectionStatus, Moved},
    check,
    config::{self, Config, Protocol, Transport},
    drain::Draining,
    kernel::{self, Firsts, FlowEnds, FlowSums, Kernel, List, Prefixes, Said},
    netns::{SpoofNs, has_route_by},
    privileges::{self, Role},
    relay::{
        Balancer, Client, Service, Shared,
        udp::{self, Catchers, Flow, Flows, Forwarder, Framing, Noted, Receiver, Speaks},
    },
};

/// What is known of UDP services.
pub struct Datagrams {
    maps: Arc<kernel::Datagrams>,
    firsts: Arc<Firsts>,
    routes: Routes,
}

impl Datagrams {
    /// From here on, the programs take datagrams for the services.
    pub fn claim(config: &Config, routes: &Routes, kernel: &mut Kernel) -> Result<Self> {
        let mut maps = kernel.datagrams()?;
        for service in config.services.iter().filter(|service| service.is_udp()) {
            for application in routes.of(service).into_iter().flatten() {
                let (target, aim) = (application.target.0, application.steer);
                let is_exclusive = service.is_exclusive(target);
                if is_exclusive {
                    kernel.claim_port(exclusive_port_bit(aim.port()))?;
                }
                maps.add_aim(target, aim, is_exclusive)?;
            }
            if let Some(receiver) = receiver(config, service, routes) {
                for listen in &service.listen {
                    kernel.claim_port(datagram_port_bit(listen.port()))?;
                    maps.claim(*listen, &receiver)?;
                }
            }
        }
        Ok(Self {
            maps: Arc::new(maps),
            firsts: Arc::new(kernel.firsts()?),
            routes: routes.clone(),
        })
    }

    /// Opens the services' sockets on the host. `is_heir`: a daemon before this one may have them too.
    pub fn listen(
        &self,
        config: &Config,
        services: &[Arc<Service>],
        is_heir: bool,
    ) -> Result<Vec<Receiver>> {
        let each = config.services.iter().zip(services);
        let each = each.flat_map(|(told, service)| match told.protocol {
            Protocol::Tcp => Vec::new(),
            Protocol::Udp { framing, .. } => {
                let listens = told.listen.iter();
                listens.map(|at| (*at, framing, service)).collect()
            }
        });
        let open = |at: SocketAddr, shared| {
            let only_v6 = listen::listens_v4(config, Transport::Udp, at.port());
            udp::listener(at, shared, only_v6).map_err(|error| {
                let what = check::unusable(at, Transport::Udp, &error);
                anyhow::Error::from(error).context(what)
            })
        };
        // Alone first: SO_REUSEPORT would let us in beside somebody else's.
        if !is_heir {
            let mut each = each.clone();
            each.try_for_each(|(at, ..)| open(at, false).map(drop))?;
        }
        let receiver = |(at, framing, service): (_, _, &Arc<Service>)| {
            anyhow::Ok(Receiver {
                service: service.clone(),
                framing,
                listener: open(at, true)?,
            })
        };
        let mut receivers = each.map(receiver).collect::<Result<Vec<_>>>()?;
        // Those at an address before those at all of them.
        receivers.sort_by_key(|receiver| receiver.listener.at.ip().is_unspecified());
        Ok(receivers)
    }

    /// Starts the thread, if there is anything to receive; it serves when this returns.
    pub async fn serve(
        &self,
        config: &Config,
        receivers: Vec<Receiver>,
        spoof: &Arc<SpoofNs>,
        shared: &Arc<Shared>,
        draining: &Draining,
        workers: &mut Workers,
    ) -> Result<()> {
        if receivers.is_empty() {
            return Ok(());
        }
        let known = Known {
            maps: self.maps.clone(),
            firsts: self.firsts.clone(),
            allowed: Prefixes::open(&config.instance, List::Allow)?,
            receivers: known(config, &self.routes),
            host: Handle::current(),
        };
        let (spoof, shared, draining) = (spoof.clone(), shared.clone(), draining.clone());
        let forwarder = Forwarder::open().context("sockets for applications beyond this host")?;
        let (serving, end) = on_thread("datagrams".into(), move |serves| {
            work(
                receivers, forwarder, &spoof, shared, known, draining, serves,
            )
        })?;
        if serving.await.is_err() {
            // It ended instead of serving, and says why.
            return end.await;
        }
        workers.spawn(end);
        Ok(())
    }

    /// Ends the flows that `wanted` picks, as their clients are denied; how many there were.
    pub fn deny(&self, config: &Config, wanted: impl Fn(&Open<'_>) -> bool) -> Result<usize> {
        self.maps
            .deny(|flow| wanted(&connections::of_datagrams(config, &self.routes, flow)))
    }

    /// What flows that are not over make, by their services' ids.
    pub fn sums(&self) -> BTreeMap<u32, FlowSums> {
        self.maps.sums()
    }

    /// Flows that are not over.
    pub fn connections(&self, config: &Config) -> Vec<ConnectionStatus> {
        let flows = self.maps.iter();
        let status = |flow| connections::datagrams(config, &self.routes, flow);
        flows.iter().map(status).collect()
    }
}

fn work(
    receivers: Vec<Receiver>,
    forwarder: Forwarder,
    spoof: &SpoofNs,
    shared: Arc<Shared>,
    known: Known,
    draining: Draining,
    serves: oneshot::Sender<()>,
) -> Result<()> {
    spoof.enter()?;
    let catchers = Catchers::open(spoof.families.v6).context("sockets for replies")?;
    known.maps.catch(catchers.sockets())?;
    privileges::runtime(Role::Worker)?.block_on(async {
        // Whoever started this may be gone.
        let _ = serves.send(());
        let served = udp::serve(
            receivers,
            catchers,
            forwarder,
            shared,
            Arc::new(known),
            draining,
        );
        served.await.context("serving datagrams")
    })
}

/// Those of its receivers; none if it is of TCP.
pub fn flags(config: &Config, service: &config::Service) -> u32 {
    let Protocol::Udp { framing, .. } = service.protocol else {
        return 0;
    };
    let framing = match framing {
        Framing::V2 => datagram::Receiver::V2,
        Framing::V2First => datagram::Receiver::V2_FIRST,
        Framing::Spp => datagram::Receiver::SPP,
    };
    let direct = match config.direct {
        config::Direct::Auto => datagram::Receiver::DIRECT,
        config::Direct::Off => 0,
    };
    framing | direct
}

/// What the programs have to know of a service's listen addresses; none if it is of TCP.
fn receiver(
    config: &Config,
    service: &config::Service,
    routes: &Routes,
) -> Option<datagram::Receiver> {
    let Protocol::Udp {
        close_after,
        limits,
        ..
    } = service.protocol
    else {
        return None;
    };
    let [v4, v6] = routes.of(service).map(steered);
    let seconds = close_after.seconds();
    Some(datagram::Receiver::new(
        service.id,
        flags(config, service),
        seconds,
        limits,
        v4,
        v6,
    ))
}

/// The clients that a service remembers; none if it is of TCP.
pub fn clients(service: &config::Service, sums: &BTreeMap<u32, FlowSums>) -> Option<Clients> {
    let Protocol::Udp { limits, .. } = service.protocol else {
        return None;
    };
    let FlowSums { flows, up, down } = sums.get(&service.id).copied().unwrap_or_default();
    let moved = |traffic: Traffic| Moved {
        datagrams: traffic.datagrams,
        bytes: traffic.bytes,
    };
    Some(Clients {
        now: flows,
        most: limits.service,
        most_per_balancer: limits.balancer,
        up: moved(up),
        down: moved(down),
    })
}

/// The same of all, by the services' names.
fn known(config: &Config, routes: &Routes) -> Vec<(String, datagram::Receiver)> {
    let each = config.services.iter();
    each.filter_map(|service| {
        let receiver = receiver(config, service, routes)?;
        Some((service.name.clone(), receiver))
    })
    .collect()
}

/// What the programs know, for the relay.
struct Known {
    maps: Arc<kernel::Datagrams>,
    firsts: Arc<Firsts>,
    allowed: Prefixes,
    receivers: Vec<(String, datagram::Receiver)>,
    /// Its threads are on the host.
    host: Handle,
}

impl Known {
    fn of(&self, service: &Service) -> io::Result<&datagram::Receiver> {
        let mut all = self.receivers.iter();
        let found = all.find(|(name, _)| *name == service.name);
        found
            .map(|(_, receiver)| receiver)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Flows for Known {
    fn allows(&self, service: &Service, balancer: Balancer) -> bool {
        let id = self.of(service).map(datagram::Receiver::service);
        let allowed = id.map(|id| self.allowed.has(id, balancer.0.ip()));
        matches!(allowed, Ok(Ok(true)))
    }

    fn leads(&self, balancer: IpAddr, device: u32) -> BoxFuture<'_, bool> {
        let asked = self.host.spawn(has_route_by(balancer, device));
        Box::pin(async move {
            let leads = matches!(asked.await, Ok(Ok(true)));
            let noted = self.maps.note_reverse_path(balancer, device, leads);
            if let Err(error) = noted {
                tracing::debug!(%balancer, device, "{error:#}");
            }
            leads
        })
    }

    fn note(&self, service: &Service, flow: &Flow, bytes: usize) -> io::Result<Noted> {
        let receiver = self.of(service)?;
        let ends = FlowEnds {
            balancer: flow.balancer.0,
            received_at: flow.received_at,
            client: flow.client.0,
            aim: flow.aim,
            stated: flow.stated,
            is_local: flow.is_local,
        };
        let noted = self.maps.note(&ends, receiver, bytes as u64);
        Ok(match noted.map_err(io::Error::other)? {
            kernel::Noted::Yes => Noted::Yes,
            kernel::Noted::Taken => Noted::Taken,
            kernel::Noted::Full => Noted::Full,
        })
    }

    fn reply(&self, aim: SocketAddr, client: SocketAddr, bytes: usize) -> Option<Flow> {
        let known = self.maps.reply(aim, client, bytes as u64);
        let known = known
            .inspect_err(|error| tracing::debug!(%client, "{error:#}"))
            .ok()??;
        let flow = known.ends;
        if known.flags & datagram::Receiver::V2_FIRST != 0 {
            let socket = (flow.balancer, flow.received_at);
            self.firsts.answered(socket, flow.client, known.close_after);
        }
        Some(Flow {
            balancer: Balancer(flow.balancer),
            received_at: flow.received_at,
            client: Client(flow.client),
            aim: flow.aim,
            stated: flow.stated,
            is_local: flow.is_local,
        })
    }

    fn first(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
    ) -> io::Result<Speaks> {
        let close_after = self.of(service)?.close_after();
        let found = self.firsts.find((balancer.0, received_at), close_after);
        Ok(match found {
            Ok(Some(Said::For(client))) => Speaks::For(Client(client)),
            Ok(Some(Said::InPieces(client))) => Speaks::InPieces(Client(client)),
            Ok(None) => Speaks::Nobody,
            Err(kernel::Forgotten) => Speaks::Forgotten,
        })
    }

    fn leave_undecided(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
    ) -> io::Result<()> {
        let close_after = self.of(service)?.close_after();
        let socket = (balancer.0, received_at);
        let left = self.firsts.leave_undecided(socket, close_after);
        left.map_err(io::Error::other)
    }

    fn note_first(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
        client: Client,
    ) -> io::Result<()> {
        let close_after = self.of(service)?.close_after();
        let socket = (balancer.0, received_at);
        let noted = self.firsts.note(socket, client.0, close_after);
        noted.map_err(io::Error::other)
    }
}
