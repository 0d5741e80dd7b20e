//! Which steer address leads to which target.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use proxy_common::{Listener, Steered};
use tokio::task::spawn_blocking;

use crate::{
    admin::{self, ServiceStatus},
    config::{self, Beside, Config, ConfigError, Protocol, Transport},
    facts::{Bound, Facts},
    header::Versions,
    kernel::{AimedAt, Kernel},
    netns::{Addresses, Entrance, Host, SpoofNs, SteerNet, SteerNets, Way, way_to},
    relay::{self, Application, OwnAddresses, Service, Target},
};

/// The way to each target: by a steer address while it is on this host, straight on while it isn't.
#[derive(Clone, Default)]
pub struct Routes {
    applications: Vec<Arc<Application>>,
    addresses: Vec<IpAddr>,
}

impl Routes {
    /// Targets of different ports share a steer address; those of the same port can't, as the
    /// application shall see its own port. Those that were there `before` stay as they are: connections may be open.
    pub async fn plan(config: &Config, spoof: &SpoofNs, before: &Self) -> Result<Self> {
        let mut routes = before.clone();
        let mut ways = Ways::default();
        let each = config.services.iter();
        let each = each.flat_map(|service| service.targets().map(move |at| (service, at)));
        for (service, target) in each {
            if target.is_ipv6() && !spoof.families.v6 {
                tracing::warn!("IPv6 is switched off on this host: target {target} is not served");
                continue;
            }
            if routes.to(target, service.transport()).is_some() {
                continue;
            }
            let is_here = ways.is_here(target.ip()).await?;
            match service.protocol {
                Protocol::Tcp => routes.add(target, &spoof.steer, is_here)?,
                Protocol::Udp { .. } if target.ip().is_loopback() => {
                    routes.add(target, &spoof.steer, true)?;
                }
                // One may answer by a socket that is connected, from the address that its route has.
                Protocol::Udp { .. } => {
                    routes.need_address(&spoof.steer, target.ip())?;
                    routes.add_at(target, target, is_here);
                }
            }
        }
        let unserved = |service: &&config::Service| {
            let mut targets = service.targets();
            targets.all(|target| routes.to(target, service.transport()).is_none())
        };
        if let Some(service) = config.services.iter().find(unserved) {
            return Err(ConfigError::NoFamily(service.name.clone()).into());
        }
        Ok(routes)
    }

    fn add(
        &mut self,
        target: SocketAddr,
        nets: &SteerNets,
        is_here: bool,
    ) -> Result<(), ConfigError> {
        let net = nets.of(&target.ip());
        let mut all = self.applications.iter();
        let mut is_free = |steer: &SocketAddr| all.all(|known| known.steer != *steer);
        let steer = (0..u16::MAX)
            .map_while(|n| Some(SocketAddr::new(net?.address(n)?, target.port())))
            .find(|steer| is_free(steer));
        let steer = steer.ok_or_else(|| too_small(net))?;
        if !self.addresses.contains(&steer.ip()) {
            self.addresses.push(steer.ip());
        }
        self.add_at(target, steer, is_here);
        Ok(())
    }

    /// Our devices take packets, and have routes of last resort, only with an address of the family.
    fn need_address(&mut self, nets: &SteerNets, target: IpAddr) -> Result<(), ConfigError> {
        let mut all = self.addresses.iter();
        if all.any(|known| known.is_ipv4() == target.is_ipv4()) {
            return Ok(());
        }
        let net = nets.of(&target);
        let address = net.and_then(|net| net.address(0));
        self.addresses.push(address.ok_or_else(|| too_small(net))?);
        Ok(())
    }

    fn add_at(&mut self, target: SocketAddr, steer: SocketAddr, is_here: bool) {
        let application = Application::new(Target(target), steer, is_here);
        self.applications.push(Arc::new(application));
    }

    pub fn to(&self, target: SocketAddr, transport: Transport) -> Option<&Arc<Application>> {
        // Those at a loopback address are reached alike.
        let is_straight = transport == Transport::Udp && !target.ip().is_loopback();
        let mut all = self.applications.iter();
        all.find(|it| it.target.0 == target && (it.steer == target) == is_straight)
    }

    /// Where who answers from a steer address listens.
    pub fn target_behind(&self, steer: SocketAddr) -> Option<Target> {
        let mut all = self.applications.iter();
        Some(all.find(|application| application.steer == steer)?.target)
    }

    /// A service's, for IPv4 clients and for IPv6 clients.
    pub fn of(&self, service: &config::Service) -> [Option<&Arc<Application>>; 2] {
        let (v4, v6) = (
            service.target4.map(Into::into),
            service.target6.map(Into::into),
        );
        [v4, v6].map(|target| self.to(target?, service.transport()))
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Has new connections go to where the targets are now.
    pub fn settle(&self, facts: &Facts) {
        for application in &self.applications {
            application.set_here(facts.is_here(application.target.0));
        }
    }

    /// Where clients come in, by the steer address, if the application hears by one device alone.
    pub fn entrances(&self, bound: &Bound) -> Vec<(SocketAddr, Entrance)> {
        let here = self.applications.iter().filter(|it| it.is_here());
        let entrance = |application: &Arc<Application>| {
            let app = bound.get(&application.target.0)?;
            Some((application.steer, app.entrance.clone()))
        };
        here.filter_map(entrance).collect()
    }

    /// Tells the programs of the targets, wherever they may be.
    pub fn fill(&self, kernel: &mut Kernel) -> Result<()> {
        self.applications.iter().try_for_each(|application| {
            let target = application.target.0;
            kernel.add_target(application.steer, target)?;
            match remote(application) {
                Some(remote) => kernel.add_remote(remote),
                None => Ok(()),
            }
        })
    }

    /// Forgets the targets that no service has any longer, but for those that something is open at. Whether it was any.
    pub fn retain(
        &mut self,
        config: &Config,
        is_open: impl Fn(SocketAddr) -> bool,
        kernel: &mut Kernel,
    ) -> Result<bool> {
        let served = self.served_at(config);
        let (stay, go): (Vec<_>, Vec<_>) = mem::take(&mut self.applications)
            .into_iter()
            .partition(|it| served.contains(&it.steer) || is_open(it.target.0));
        self.applications = stay;
        let gone = Self {
            applications: go,
            addresses: Vec::new(),
        };
        gone.withdraw(self, kernel)?;
        Ok(!gone.applications.is_empty())
    }

    /// Has the programs forget the targets that only this has.
    pub fn withdraw(&self, known: &Self, kernel: &mut Kernel) -> Result<()> {
        let stays: HashSet<_> = known.applications.iter().flat_map(steered_at).collect();
        let mut all = self.applications.iter().flat_map(steered_at);
        all.try_for_each(|at| match stays.contains(&at) {
            true => Ok(()),
            false => kernel.remove_target(at),
        })
    }

    pub fn has_others_than(&self, config: &Config) -> bool {
        let served = self.served_at(config);
        let mut all = self.applications.iter();
        all.any(|it| !served.contains(&it.steer))
    }

    /// Where services' targets are steered to.
    fn served_at(&self, config: &Config) -> HashSet<SocketAddr> {
        let all = config.services.iter().flat_map(|service| self.of(service));
        all.flatten().map(|it| it.steer).collect()
    }

    /// Those of UDP services.
    pub fn aimed_at(&self, config: &Config) -> Vec<AimedAt> {
        let services = config.services.iter().filter(|service| service.is_udp());
        let mut all = Vec::new();
        for service in services {
            for application in self.of(service).into_iter().flatten() {
                let target = application.target.0;
                all.push(AimedAt {
                    target,
                    aim: application.steer,
                    is_exclusive: service.is_exclusive(target),
                });
            }
        }
        all
    }

    /// The services as the programs know them by now, in the configuration's order.
    pub fn served(&self, config: &Config) -> Vec<Listener> {
        let services = config.services.iter();
        services.map(|service| served(service, self)).collect()
    }

    /// The services as the relay knows them, in the configuration's order.
    pub fn services(&self, config: &Config) -> Vec<Arc<Service>> {
        let service = |service: &config::Service| {
            Arc::new(Service {
                name: service.name.clone(),
                id: service.id,
                policy: service.header.policy,
                clients: service.clients,
                header_timeout: service.header.timeout,
                connect_timeout: service.connect_timeout,
                applications: self.of(service).map(Option::<&Arc<_>>::cloned),
            })
        };
        config.services.iter().map(service).collect()
    }
}

fn too_small(net: Option<&SteerNet>) -> ConfigError {
    ConfigError::SteerNetTooSmall(net.map_or_else(|| "of IPv6".into(), ToString::to_string))
}

/// A target that may be beyond this host, as far as connections to it leave by its own address.
fn remote(application: &Application) -> Option<SocketAddr> {
    let target = application.target.0;
    let is_remote = !target.ip().is_loopback() && application.steer != target;
    is_remote.then_some(target)
}

fn steered_at(application: &Arc<Application>) -> impl Iterator<Item = SocketAddr> + use<> {
    [Some(application.steer), remote(application)]
        .into_iter()
        .flatten()
}

/// Whether no service listens where a target of this host is, of this instance or another.
pub async fn check(config: &Config) -> Result<()> {
    let mut ways = Ways::default();
    for listen in config.services.iter().flat_map(|service| &service.listen) {
        if ways.is_broadcast(listen.ip()).await? {
            return Err(ConfigError::NoListen(*listen).into());
        }
    }
    let instance = config.instance.clone();
    // They may be asking this one.
    let others = spawn_blocking(move || admin::services_beside(&instance)).await??;
    let others: Vec<_> = others.iter().flat_map(beside).collect();
    let each = config.services.iter();
    let each = each.flat_map(|service| service.targets().map(move |at| (service, at)));
    for (service, target) in each {
        if ways.is_broadcast(target.ip()).await? {
            return Err(ConfigError::NoTarget(target).into());
        }
        let is_here = ways.is_here(target.ip()).await?;
        config.is_free(service.transport(), target, is_here)?;
        config.is_nobodys(target, is_here, &others)?;
    }
    config.is_alone(&others)?;
    Ok(())
}

fn beside((instance, service): &(String, ServiceStatus)) -> impl Iterator<Item = Beside<'_>> {
    service.listen.iter().map(move |listen| Beside {
        instance,
        listen: *listen,
        targets: &service.targets,
        is_tcp: service.clients.is_none(),
        is_shared: service.shares_listen,
    })
}

/// Those that were asked for: many services have a few addresses.
#[derive(Default)]
struct Ways(HashMap<IpAddr, Way>);

impl Ways {
    async fn to(&mut self, address: IpAddr) -> Result<&Way> {
        Ok(match self.0.entry(address) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(way_to(address).await?),
        })
    }

    async fn is_here(&mut self, address: IpAddr) -> Result<bool> {
        Ok(address.is_loopback() || matches!(self.to(address).await?, Way::Here))
    }

    async fn is_broadcast(&mut self, address: IpAddr) -> Result<bool> {
        Ok(!address.is_loopback() && matches!(self.to(address).await?, Way::Broadcast))
    }
}

/// An application as the programs know it.
pub fn steered(application: Option<&Arc<Application>>) -> Steered {
    application.map_or_else(Steered::default, |it| Steered {
        steer: it.steer.into(),
        target: it.target.0.into(),
    })
}

/// What the programs have to know of a service; that it is direct is still to be said.
fn served(service: &config::Service, routes: &Routes) -> Listener {
    let applications = routes.of(service);
    let [v4, v6] = applications.map(|it| steered(it.filter(|it| it.is_here())));
    let versions = service.header.policy.versions;
    let seconds = u32::try_from(service.header.timeout.as_secs()).unwrap_or(u32::MAX / 2);
    let mut served = Listener::new(service.id, v4, v6).with_header_seconds(seconds.max(1));
    served.set(Listener::HEADER_V1, versions != Versions::V2);
    served.set(Listener::HEADER_V2, versions != Versions::V1);
    let is_remote = applications.iter().flatten().any(|it| !it.is_here());
    served.set(Listener::REMOTE, is_remote);
    served.set(Listener::DRAINED, service.drained);
    served.set(Listener::OUTSIDERS_APP, service.shares_listen());
    served
}

/// The host's addresses and all that may become steer addresses.
pub struct Own {
    addresses: Addresses,
    steer: SteerNets,
}

impl Own {
    pub fn new(host: &Host, spoof: &SpoofNs) -> Self {
        Self {
            addresses: host.addresses.clone(),
            steer: spoof.steer,
        }
    }
}

impl OwnAddresses for Own {
    fn find(&self, address: &IpAddr) -> Option<relay::Own> {
        if self.steer.contains(address) {
            return Some(relay::Own::Steer);
        }
        self.addresses.find(address)
    }
}

impl OwnAddresses for Addresses {
    fn find(&self, address: &IpAddr) -> Option<relay::Own> {
        let is_unicast = self.is_unicast(address)?;
        Some(match is_unicast {
            true => relay::Own::Unicast,
            false => relay::Own::Broadcast,
        })
    }
}
