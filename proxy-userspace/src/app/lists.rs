//! The lists of a running daemon: who may connect, and which clients may not.

use std::sync::Arc;

use anyhow::Result;
use ipnet::IpNet;

use super::connections::Open;
use crate::{
    config::{Config, ConfigError, Service},
    kernel::{self, List, Prefixes},
    relay::{self, Client},
};

/// What the configuration has for a service.
pub struct Listed {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

/// Each service's prefixes, in the configuration's order, or the error that keeps the daemon from starting.
pub fn read(config: &Config) -> Result<Vec<Listed>, ConfigError> {
    let read = |service: &Service| {
        Ok(Listed {
            allow: service.read_allow()?,
            deny: service.deny.read()?,
        })
    };
    config.services.iter().map(read).collect()
}

pub struct Lists {
    allow: Prefixes,
    deny: Prefixes,
    pub denied: Arc<Denied>,
    /// Just now: what was on its way through the programs meanwhile is listed a moment later.
    pub have_changed: bool,
}

impl Lists {
    /// `new`: the ids of services that haven't been there before, which begin with nothing.
    pub fn open(config: &Config, listed: &[Listed], new: &[u32]) -> Result<Self> {
        let open = |list| Prefixes::open(&config.instance, list);
        let services = config.services.iter();
        let services = services.map(|service| (service.name.clone(), service.id));
        let mut lists = Self {
            allow: open(List::Allow)?,
            deny: open(List::Deny)?,
            denied: Arc::new(Denied {
                prefixes: open(List::Deny)?,
                services: services.collect(),
            }),
            // With what a daemon before this one has left open.
            have_changed: true,
        };
        new.iter().try_for_each(|service| lists.clear(*service))?;
        lists.configure(config, listed)?;
        Ok(lists)
    }

    /// Forgets the services that the configuration has no longer. Not before their daemon is gone.
    pub fn retain(&mut self, config: &Config) -> Result<()> {
        let ids: Vec<_> = config.services.iter().map(|service| service.id).collect();
        kernel::retain_services(&config.instance, &ids, |gone| self.clear(gone))
    }

    fn clear(&mut self, service: u32) -> Result<()> {
        self.allow.clear(service)?;
        self.deny.clear(service)
    }

    /// Returns how many prefixes there are by configuration.
    pub fn configure(&mut self, config: &Config, listed: &[Listed]) -> Result<usize> {
        let mut count = 0;
        for (service, Listed { allow, deny }) in config.services.iter().zip(listed) {
            self.deny.configure(service.id, deny)?;
            self.allow.configure(service.id, allow)?;
            count += allow.len() + deny.len();
        }
        Ok(count)
    }
}

/// Looks clients up where the programs do.
pub struct Denied {
    prefixes: Prefixes,
    /// Their names and ids.
    services: Vec<(String, u32)>,
}

impl Denied {
    /// Whether an open connection has to end.
    pub fn ends(&self, open: &Open<'_>) -> bool {
        !open.balancer.is(open.client) && self.has(open.service, open.client)
    }

    pub fn has(&self, service: &str, client: Client) -> bool {
        let mut services = self.services.iter();
        let Some((_, id)) = services.find(|(name, _)| name == service) else {
            return false;
        };
        let found = self.prefixes.has(*id, client.0.ip());
        found.unwrap_or_else(|error| {
            tracing::error!("refusing {client}, as the deny list can't be read: {error:#}");
            true
        })
    }
}

impl relay::DenyList for Denied {
    fn has(&self, service: &relay::Service, client: Client) -> bool {
        self.has(&service.name, client)
    }
}
