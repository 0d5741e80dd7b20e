//! The direct path while it runs: which services take it, what has become of its connections, and how
//! many there may be.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use proxy_common::{Host as Offered, Listener, flow::MAX_FLOWS};
use tokio::sync::{Semaphore, watch};

use super::{
    connections::{self, Names, Open, Path},
    listen::Claims,
    routes::Routes,
};
use crate::{
    admin::{PathStatus, ReasonStatus, TotalLimits},
    config::{Config, Service},
    facts::{Facts, Family, Reason},
    kernel::{self, Flow, Flows, Heard, Kernel, Known},
    netns::{Addresses, Entrance, Local, TcpSockets},
    relay::{Balancer, Client, Target, tcp::Neighbours},
    telemetry::Telemetry,
};

pub struct Direct {
    pub facts: watch::Receiver<Facts>,
    pub addresses: Addresses,
    maps: kernel::Direct,
    sockets: TcpSockets,
    routes: Routes,
    /// By where the targets are.
    served: Vec<Listener>,
    /// Why each service isn't direct, by name and family.
    reasons: HashMap<String, [Vec<Reason>; 2]>,
    /// Whether the programs are there.
    loaded: bool,
    limits: Limits,
}

struct Others {
    flows: Arc<Flows>,
    /// On the host, where applications are.
    sockets: Mutex<TcpSockets>,
    limits: Limits,
}

impl Neighbours for Others {
    fn has(&self, client: SocketAddr, steered: SocketAddr) -> bool {
        match self.flows.look(client, steered) {
            Known::Nothing => false,
            Known::Coming => true,
            // The sweep may not have seen its end yet, and the client is back already.
            Known::Seen => {
                let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
                sockets.is_there(steered, client).unwrap_or(true)
            }
        }
    }

    fn leave_room(&self) -> bool {
        let Some(maxconn) = self.limits.maxconn else {
            return true;
        };
        let direct = usize::try_from(self.flows.count()).unwrap_or(usize::MAX);
        direct.saturating_add(self.limits.open()) <= maxconn
    }
}

/// How many connections there may be.
#[derive(Clone)]
pub struct Limits {
    /// Permits that the daemon's connections take.
    pub slots: Arc<Semaphore>,
    /// All of them.
    pub daemon: usize,
    /// Of both paths together, if that was chosen.
    pub maxconn: Option<usize>,
}

impl Limits {
    /// The daemon's connections.
    fn open(&self) -> usize {
        self.daemon.saturating_sub(self.slots.available_permits())
    }
}

impl Direct {
    pub fn new(
        kernel: &mut Kernel,
        loaded: bool,
        routes: Routes,
        facts: watch::Receiver<Facts>,
        addresses: Addresses,
        limits: Limits,
    ) -> Result<Self> {
        Ok(Self {
            facts,
            addresses,
            maps: kernel.direct()?,
            sockets: TcpSockets::open()?,
            reasons: HashMap::new(),
            served: Vec::new(),
            routes,
            loaded,
            limits,
        })
    }

    /// At an address that is new here, the kernel may remember connections of whoever had it before.
    pub fn look_for_earlier(&mut self, new: impl Iterator<Item = SocketAddr>) -> Result<()> {
        let ports: Vec<_> = new.map(|at| Local::Port(at.port())).collect();
        let mut are_there = false;
        self.sockets.for_each(&ports, |_| are_there = true)?;
        if are_there {
            self.maps.set_found()?;
        }
        Ok(())
    }

    /// Direct connections, for the relay to see; none where there can't be any.
    pub fn neighbours(&self) -> Result<Option<Arc<dyn Neighbours>>> {
        if !self.loaded {
            return Ok(None);
        }
        Ok(Some(Arc::new(Others {
            flows: self.maps.flows(),
            sockets: Mutex::new(TcpSockets::open()?),
            limits: self.limits.clone(),
        })))
    }

    /// Permits that the daemon's connections take.
    pub fn slots(&self) -> Arc<Semaphore> {
        self.limits.slots.clone()
    }

    pub fn served(&self) -> &[Listener] {
        &self.served
    }

    /// `lo` takes no packets of clients any more.
    pub fn leave_lo(&mut self) -> Result<()> {
        self.maps.leave_lo()
    }

    /// These are the targets from here on, and the facts that bear on them.
    pub fn follow(&mut self, routes: Routes, facts: Option<watch::Receiver<Facts>>) {
        self.routes = routes;
        self.facts = facts.unwrap_or_else(|| self.facts.clone());
    }

    /// Has new connections take the path that the facts allow. Open ones go on.
    pub fn decide(&mut self, config: &Config, claims: &Claims, kernel: &mut Kernel) -> Result<()> {
        self.judge(config, kernel)?;
        claims.update(config, &self.served, kernel)
    }

    /// The same, before anything is claimed.
    pub fn judge(&mut self, config: &Config, kernel: &mut Kernel) -> Result<()> {
        let facts = self.facts.borrow_and_update().clone();
        self.maps.set_host(self.offered(&facts))?;
        self.addresses.set_by_route(&facts.own_nets);
        self.maps.set_locals(&self.addresses.unicast_or_not())?;
        if let Err(error) = self.maps.set_local_nets(&facts.own_nets) {
            tracing::error!("{error:#}");
        }
        self.routes.settle(&facts);
        let entrances = self.routes.entrances(&facts.bound);
        if !entrances.is_empty() {
            kernel.enter_by(&entrances)?;
            self.maps.set_bound(true)?;
        }
        self.served = self.routes.served(config);
        let mut known = mem::take(&mut self.reasons);
        for (service, served) in config.services.iter().zip(&mut self.served) {
            let reasons = known.remove(&service.name).unwrap_or_default();
            let paths = Family::BOTH.map(|family| facts.path(service, family));
            for ((family, now), before) in Family::BOTH.iter().zip(&paths).zip(&reasons) {
                if now != before && service.hears(*family) {
                    say(&service.name, *family, now);
                }
            }
            served.set(Listener::DIRECT_V4, paths[0].is_empty());
            served.set(Listener::DIRECT_V6, paths[1].is_empty());
            let mut bound = service.targets().filter_map(|at| facts.bound.get(&at));
            served.set(Listener::BOUND, bound.any(|app| app.listens));
            self.reasons.insert(service.name.clone(), paths);
        }
        Ok(())
    }

    fn offered(&self, facts: &Facts) -> Offered {
        let offers = facts.sysctls.offers;
        let most = self
            .limits
            .maxconn
            .and_then(|most| u32::try_from(most).ok());
        Offered {
            timestamps: offers.timestamps.into(),
            sack: offers.sack.into(),
            scale: offers.window_scale.map_or(Offered::NO_SCALE, u32::from),
            most: most.unwrap_or(MAX_FLOWS).min(MAX_FLOWS),
        }
    }

    /// Counts those that a daemon before this one has left open, which nobody tells of again.
    pub fn count_taken_over(&self, names: &Names, telemetry: &Telemetry) {
        for flow in self.flows().iter().filter(|flow| flow.is_told) {
            telemetry.direct_taken_over(names.of(flow.service));
        }
    }

    /// Looks after direct connections, and hears of them.
    pub fn tick(
        &mut self,
        names: &Names,
        kernel: &mut Kernel,
        telemetry: &Telemetry,
    ) -> Result<()> {
        self.maps.set_daemon_connections(self.limits.open())?;
        self.leave_entrances(kernel)?;
        if self.loaded {
            kernel.sweep()?;
            for heard in self.maps.hear() {
                self.report(names, &heard, telemetry);
            }
        }
        Ok(())
    }

    /// Where an application hears by all devices again, clients enter as everybody's, once its last
    /// connection that hears by one alone is over.
    fn leave_entrances(&mut self, kernel: &mut Kernel) -> Result<()> {
        let entered = kernel.entered();
        if entered.is_empty() {
            return Ok(());
        }
        let bound = self.routes.entrances(&self.facts.borrow().bound);
        let is_bound = |steer| bound.iter().any(|(at, _)| *at == steer);
        for (steer, index) in entered {
            let at = SocketAddr::from(steer);
            if is_bound(at) {
                continue;
            }
            let mut is_needed = false;
            self.sockets.for_each(&[Local::Port(at.port())], |socket| {
                is_needed |= socket.local == at && socket.device() == index;
            })?;
            if is_needed {
                // A daemon before this one has begun it.
                let name = format!("device {index}");
                kernel.enter_by(&[(at, Entrance { name, index })])?;
            } else {
                kernel.leave_for_all(&steer);
            }
        }
        self.maps.set_bound(!kernel.entered().is_empty())
    }

    fn report(&self, names: &Names, heard: &Heard, telemetry: &Telemetry) {
        let (Heard::Opened(flow) | Heard::Closed(flow) | Heard::Reset(flow)) = heard;
        let Open {
            service,
            client,
            balancer,
            target,
            ..
        } = self.open(names, flow);
        match heard {
            Heard::Opened(_) => {
                let tlvs = connections::tlvs(flow);
                telemetry.direct_opened(service, balancer, client, target, &tlvs);
            }
            Heard::Closed(_) => telemetry.direct_closed(service, balancer, flow.up, flow.down),
            Heard::Reset(_) => telemetry.direct_reset(service, balancer),
        }
    }

    /// A flow as it is told of.
    pub fn open<'a>(&self, names: &'a Names, flow: &Flow) -> Open<'a> {
        Open {
            service: names.of(flow.service),
            service_id: flow.service,
            client: Client(flow.client),
            balancer: Balancer(flow.balancer),
            target: self.target(flow),
            path: Path::Direct,
            age: flow.age,
        }
    }

    /// Where the application listens. One of a daemon before this one may be of no service.
    fn target(&self, flow: &Flow) -> Target {
        let target = self.routes.target_behind(flow.steered);
        target.unwrap_or(Target(flow.steered))
    }

    /// Those that are open.
    pub fn flows(&self) -> Vec<Flow> {
        if self.loaded {
            self.maps.iter().collect()
        } else {
            Vec::new()
        }
    }

    /// From here on the programs answer new connections, of either path, as a closed port does.
    pub fn refuse_new(&mut self) -> Result<()> {
        self.maps.set_closing(true)
    }

    /// From here on applications answer as without the programs.
    pub fn say_ending(&mut self) -> Result<()> {
        self.maps.set_ending(true)
    }

    /// Resets connections that `wanted` picks, on both sides; returns how many there were.
    pub fn end(&mut self, names: &Names, wanted: impl Fn(&Open<'_>) -> bool) -> Result<usize> {
        let flows = self.flows().into_iter();
        let flows = flows.filter(|flow| wanted(&self.open(names, flow)));
        let tuples: HashSet<_> = flows.map(|flow| (flow.steered, flow.client)).collect();
        let steered: HashSet<_> = tuples.iter().map(|(steered, _)| steered.ip()).collect();
        let mut found = Vec::new();
        if !tuples.is_empty() {
            let steered: Vec<_> = steered.into_iter().map(Local::from).collect();
            self.sockets.for_each(&steered, |socket| {
                if tuples.contains(&(socket.local, socket.remote)) {
                    found.push(socket);
                }
            })?;
        }
        let mut ended = 0;
        for socket in &found {
            ended += usize::from(self.sockets.destroy(socket)?);
        }
        Ok(ended)
    }

    pub fn limits(&self) -> TotalLimits {
        TotalLimits {
            daemon: self.limits.daemon,
            direct: MAX_FLOWS as usize,
            maxconn: self.limits.maxconn,
        }
    }

    /// A service's path by family.
    pub fn paths(&self, service: &Service) -> Vec<PathStatus> {
        let Some(reasons) = self.reasons.get(&service.name) else {
            return Vec::new();
        };
        let heard = Family::BOTH.into_iter().zip(reasons);
        let heard = heard.filter(|(family, _)| service.hears(*family));
        heard
            .map(|(family, reasons)| path(family, reasons))
            .collect()
    }
}

fn path(family: Family, reasons: &[Reason]) -> PathStatus {
    let reason = |reason: &Reason| ReasonStatus {
        name: reason.name().into(),
        text: reason.to_string(),
    };
    PathStatus {
        family: family.to_string(),
        path: if reasons.is_empty() {
            Path::Direct
        } else {
            Path::Daemon
        }
        .to_string(),
        reasons: reasons.iter().map(reason).collect(),
    }
}

fn say(service: &str, family: Family, reasons: &[Reason]) {
    if reasons.is_empty() {
        tracing::info!(service, "{family} connections are direct");
        return;
    }
    let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    let reasons = reasons.join("; ");
    tracing::info!(
        service,
        "{family} connections go through the daemon: {reasons}"
    );
}
