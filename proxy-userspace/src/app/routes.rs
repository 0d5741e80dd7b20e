//! Which steer address leads to which target.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use proxy_common::{Listener, Steered};

use crate::{
    config::{self, Config, ConfigError},
    header::Versions,
    kernel::Kernel,
    netns::{Addresses, Host, SpoofNs, SteerNets},
    relay::{OwnAddresses, Route, Service, Target},
};

/// The way to each target: by a steer address if it is on this host, straight on if it isn't.
#[derive(Default)]
pub struct Routes {
    routes: Vec<Route>,
    addresses: Vec<IpAddr>,
}

impl Routes {
    /// Targets of different ports share a steer address; those of the same port can't, as the
    /// application shall see its own port.
    pub fn plan(config: &Config, spoof: &SpoofNs, host: &Host) -> Result<Self, ConfigError> {
        let mut routes = Self::default();
        for target in config.services.iter().flat_map(config::Service::targets) {
            if target.is_ipv6() && !spoof.families.v6 {
                tracing::warn!("IPv6 is switched off on this host: target {target} is not served");
            } else if target.ip().is_loopback() || host.addresses.contains(&target.ip()) {
                routes.add(target, &spoof.steer)?;
            } else {
                let steered = target;
                let target = Target(target);
                routes.routes.push(Route { steered, target });
            }
        }
        Ok(routes)
    }

    fn add(&mut self, target: SocketAddr, nets: &SteerNets) -> Result<(), ConfigError> {
        if self.to(target).is_some() {
            return Ok(());
        }
        let net = nets.of(&target.ip());
        let free = |steered: &SocketAddr| self.routes.iter().all(|route| route.steered != *steered);
        let steered = (0..u16::MAX)
            .map_while(|n| Some(SocketAddr::new(net?.address(n)?, target.port())))
            .find(free);
        let Some(steered) = steered else {
            let net = net.map_or_else(|| "of IPv6".into(), ToString::to_string);
            return Err(ConfigError::SteerNetTooSmall(net));
        };
        if !self.addresses.contains(&steered.ip()) {
            self.addresses.push(steered.ip());
        }
        self.routes.push(Route {
            steered,
            target: Target(target),
        });
        Ok(())
    }

    pub fn to(&self, target: SocketAddr) -> Option<Route> {
        let mut routes = self.routes.iter();
        routes.find(|route| route.target.0 == target).copied()
    }

    /// To a service's targets, IPv4 and IPv6.
    fn of(&self, service: &config::Service) -> [Option<Route>; 2] {
        let (v4, v6) = (
            service.target4.map(Into::into),
            service.target6.map(Into::into),
        );
        [v4, v6].map(|target| self.to(target?))
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Tells the programs where the targets are.
    pub fn fill(&self, kernel: &mut Kernel) -> Result<()> {
        self.routes.iter().try_for_each(|route| {
            if route.is_steered() {
                kernel.add_target(route.steered, route.target.0)
            } else {
                kernel.add_remote(route.steered)
            }
        })
    }

    /// The services as the programs know them, in the configuration's order.
    pub fn served(&self, config: &Config) -> Vec<Listener> {
        let services = config.services.iter();
        services.map(|service| served(service, self)).collect()
    }

    /// The services as the relay knows them, in the configuration's order.
    pub fn services(&self, config: &Config) -> Vec<Arc<Service>> {
        let service = |service: &config::Service| {
            let [route4, route6] = self.of(service);
            Arc::new(Service {
                name: service.name.clone(),
                policy: service.header.policy,
                clients: service.clients,
                header_timeout: service.header.timeout,
                connect_timeout: service.connect_timeout,
                route4,
                route6,
            })
        };
        config.services.iter().map(service).collect()
    }
}

/// What the programs have to know of a service; that it is direct is still to be said.
fn served(service: &config::Service, routes: &Routes) -> Listener {
    let ways = routes.of(service);
    let [v4, v6] = ways.map(|route| {
        let here = route.filter(Route::is_steered);
        here.map_or_else(Steered::default, |here| Steered {
            steer: here.steered.into(),
            target: here.target.0.into(),
        })
    });
    let versions = service.header.policy.versions;
    let seconds = u32::try_from(service.header.timeout.as_secs()).unwrap_or(u32::MAX / 2);
    let mut served = Listener::new(service.id, v4, v6).with_header_seconds(seconds.max(1));
    served.set(Listener::HEADER_V1, versions != Versions::V2);
    served.set(Listener::HEADER_V2, versions != Versions::V1);
    let is_remote = ways.iter().flatten().any(|route| !route.is_steered());
    served.set(Listener::REMOTE, is_remote);
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
    fn contains(&self, address: &IpAddr) -> bool {
        self.addresses.contains(address) || self.steer.contains(address)
    }
}
