//! UDP while it runs: who receives, and the thread for what the programs leave to the daemon.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use proxy_common::{
    datagram::{self, Traffic},
    datagram_port_bit, exclusive_port_bit,
};
use tokio::{
    runtime::Handle,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
};

use super::{
    applications::Applications,
    connections::{self, Names, Open},
    flows::{Known, Receivers},
    listen,
    routes::{Routes, steered},
    workers::{Workers, on_thread},
};
use crate::{
    admin::{Clients, ConnectionStatus, Moved},
    check,
    config::{self, Config, Protocol, Transport},
    drain::Draining,
    kernel::{self, DatagramFlow, Firsts, FlowSums, Kernel},
    netns::{SpoofNs, SteerNets},
    privileges::{self, Role},
    relay::{
        Service, Shared,
        udp::{self, Catchers, Forwarder, Framing, Receiver},
    },
};

/// What is known of UDP services.
pub struct Datagrams {
    maps: Arc<kernel::Datagrams>,
    firsts: Arc<Firsts>,
    routes: Routes,
    applications: Applications,
    known: Arc<Receivers>,
    /// The thread, if there is one.
    relay: Option<UnboundedSender<udp::Change>>,
}

impl Datagrams {
    /// From here on, the programs take datagrams for the services.
    pub fn claim(
        config: &Config,
        routes: &Routes,
        steer: &SteerNets,
        kernel: &mut Kernel,
    ) -> Result<Self> {
        let mut datagrams = Self {
            maps: Arc::new(kernel.datagrams()?),
            firsts: Arc::new(kernel.firsts()?),
            routes: Routes::default(),
            applications: Applications::default(),
            known: Arc::default(),
            relay: None,
        };
        datagrams.applications = Applications::inherited(&datagrams.maps.iter(), steer);
        datagrams.update(config, routes, kernel)?;
        Ok(datagrams)
    }

    /// The services are these from here on; those at addresses that aren't among theirs are still to be closed.
    pub fn update(&mut self, config: &Config, routes: &Routes, kernel: &mut Kernel) -> Result<()> {
        self.applications.serve(routes.aimed_at(config));
        self.aim(kernel)?;
        self.routes = routes.clone();
        self.known.set(config, routes);
        for service in &config.services {
            let Some(receiver) = receiver(config, service, routes) else {
                continue;
            };
            for listen in &service.listen {
                kernel.claim_port(datagram_port_bit(listen.port()))?;
                self.maps.claim(*listen, &receiver)?;
            }
        }
        Ok(())
    }

    fn aim(&self, kernel: &mut Kernel) -> Result<()> {
        let all = self.applications.all();
        for app in all.iter().filter(|app| app.is_exclusive) {
            kernel.claim_port(exclusive_port_bit(app.aim.port()))?;
        }
        self.maps.aim_at(&all)
    }

    pub fn has_former(&self) -> bool {
        self.applications.has_former()
    }

    /// Forgets former applications that nothing is open at.
    pub fn forget_former(&mut self, open: &HashSet<SocketAddr>, kernel: &mut Kernel) -> Result<()> {
        match self.applications.forget_former(open) {
            true => self.aim(kernel),
            false => Ok(()),
        }
    }

    /// Opens the services' sockets on the host. `is_heir`: a daemon before this one may have them too.
    pub fn listen(
        &self,
        config: &Config,
        services: &[Arc<Service>],
        is_heir: bool,
    ) -> Result<Vec<Receiver>> {
        // Alone first: SO_REUSEPORT would let us in beside somebody else's.
        if !is_heir {
            let mut each = addresses(config, services);
            each.try_for_each(|(at, ..)| open(config, at, false).map(drop))?;
        }
        let each = addresses(config, services);
        each.map(|(at, framing, service)| receives(config, at, framing, service))
            .collect()
    }

    /// The same at those of these addresses that come while others are served.
    pub fn add(
        &self,
        (before, config): (&Config, &Config),
        services: &[Arc<Service>],
        new: &[SocketAddr],
    ) -> Result<Vec<Receiver>> {
        let ours: HashSet<u16> = before.listens(Transport::Udp).map(|at| at.port()).collect();
        let each = addresses(config, services);
        let each = each.filter(|(at, ..)| new.contains(at));
        let receiver = |(at, framing, service): (SocketAddr, _, &Arc<Service>)| {
            if !ours.contains(&at.port()) {
                drop(open(config, at, false)?);
            }
            receives(config, at, framing, service)
        };
        each.map(receiver).collect()
    }

    /// Has the thread serve what [`Self::add`] has opened, and each address as its service has it now.
    pub fn follow(&self, config: &Config, services: &[Arc<Service>], opened: Vec<Receiver>) {
        for receiver in opened {
            self.tell(udp::Change::Listen(receiver));
        }
        for (at, framing, service) in addresses(config, services) {
            self.tell(udp::Change::Serve(at, service.clone(), framing));
        }
    }

    /// Nobody gets in at these any more.
    pub async fn close(&self, old: &[SocketAddr]) -> Result<()> {
        for listen in old {
            let (told, closed) = oneshot::channel();
            self.tell(udp::Change::Close(*listen, told));
            // An error: the thread has ended, and that is noticed by who waits for it.
            let _ = closed.await;
            self.maps.unclaim(*listen)?;
        }
        Ok(())
    }

    fn tell(&self, change: udp::Change) {
        let relay = self.relay.as_ref();
        if relay.is_none_or(|relay| relay.send(change).is_err()) {
            tracing::debug!("there is nobody who receives");
        }
    }

    /// Starts the thread, if there is anything to receive; it serves when this returns.
    pub async fn serve(
        &mut self,
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
            receivers: self.known.clone(),
            host: Handle::current(),
        };
        let (spoof, shared, draining) = (spoof.clone(), shared.clone(), draining.clone());
        let forwarder = Forwarder::open().context("sockets for applications beyond this host")?;
        let (relay, changes) = unbounded_channel();
        self.relay = Some(relay);
        let (serving, end) = on_thread("datagrams".into(), move |serves| {
            let receivers = (receivers, changes);
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
    pub fn deny(&self, names: &Names, wanted: impl Fn(&Open<'_>) -> bool) -> Result<usize> {
        self.maps
            .deny(|flow| wanted(&connections::of_datagrams(names, &self.routes, flow)))
    }

    /// Counts the flows of clients who may have so many each.
    pub fn count(&self, config: &Config) {
        let services = config.services.iter().filter(|service| service.is_udp());
        for service in services.filter(|service| service.limits.client.most != 0) {
            let failed = self.maps.count(service.id);
            if failed > 0 {
                let service = &service.name;
                tracing::warn!(
                    service,
                    "{failed} clients' ports aren't counted, until they are silent"
                );
            }
        }
    }

    /// What flows that are not over make, by their services' ids.
    pub fn sums(&self) -> BTreeMap<u32, FlowSums> {
        self.maps.sums()
    }

    /// The same, as the programs know them.
    pub fn flows(&self) -> Vec<DatagramFlow> {
        self.maps.iter()
    }

    /// Flows that are not over.
    pub fn connections(&self, names: &Names) -> Vec<ConnectionStatus> {
        let flows = self.maps.iter();
        let status = |flow| connections::datagrams(names, &self.routes, flow);
        flows.iter().map(status).collect()
    }
}

fn addresses<'a>(
    config: &'a Config,
    services: &'a [Arc<Service>],
) -> impl Iterator<Item = (SocketAddr, Framing, &'a Arc<Service>)> {
    let each = config.services.iter().zip(services);
    each.flat_map(|(told, service)| {
        let framing = match told.protocol {
            Protocol::Tcp => None,
            Protocol::Udp { framing, .. } => Some(framing),
        };
        let listens = told.listen.iter();
        listens.filter_map(move |at| Some((*at, framing?, service)))
    })
}

fn open(config: &Config, at: SocketAddr, shared: bool) -> Result<udp::Listener> {
    let only_v6 = listen::listens_v4(config, Transport::Udp, at.port());
    udp::listener(at, shared, only_v6).map_err(|error| {
        let what = check::unusable(at, Transport::Udp, &error);
        anyhow::Error::from(error).context(what)
    })
}

fn receives(
    config: &Config,
    at: SocketAddr,
    framing: Framing,
    service: &Arc<Service>,
) -> Result<Receiver> {
    Ok(Receiver {
        service: service.clone(),
        framing,
        listener: open(config, at, true)?,
    })
}

fn work(
    (receivers, changes): (Vec<Receiver>, UnboundedReceiver<udp::Change>),
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
            changes,
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
pub fn receiver(
    config: &Config,
    service: &config::Service,
    routes: &Routes,
) -> Option<datagram::Receiver> {
    let Protocol::Udp {
        close_after, sizes, ..
    } = service.protocol
    else {
        return None;
    };
    let [v4, v6] = routes.of(service).map(steered);
    let seconds = close_after.seconds();
    let drained = if service.drained {
        datagram::Receiver::DRAINED
    } else {
        0
    };
    Some(datagram::Receiver::new(
        service.id,
        flags(config, service) | drained,
        seconds,
        sizes,
        v4,
        v6,
    ))
}

/// The clients that a service remembers; none if it is of TCP.
pub fn clients(service: &config::Service, sums: &BTreeMap<u32, FlowSums>) -> Option<Clients> {
    let Protocol::Udp { sizes, .. } = service.protocol else {
        return None;
    };
    let FlowSums { flows, up, down } = sums.get(&service.id).copied().unwrap_or_default();
    let moved = |traffic: Traffic| Moved {
        datagrams: traffic.datagrams,
        bytes: traffic.bytes,
    };
    Some(Clients {
        now: flows,
        most: sizes.service,
        most_per_balancer: sizes.balancer,
        up: moved(up),
        down: moved(down),
    })
}
