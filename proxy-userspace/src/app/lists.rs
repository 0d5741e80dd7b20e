//! The lists of a running daemon: who may connect, and which clients may not.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use ipnet::IpNet;
use tempfile::NamedTempFile;

use super::connections::Open;
use crate::{
    config::{self, Config, ConfigError, Service},
    kernel::{self, List, Origin, Prefixes},
    relay::{self, Balancer, Client},
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

/// What a service's file has kept of what was put on its allowlist live.
struct Kept {
    service: usize,
    file: PathBuf,
    prefixes: Vec<IpNet>,
}

/// What a start needs, read before it changes anything.
pub struct AtStart {
    listed: Vec<Listed>,
    kept: Vec<Kept>,
}

pub fn at_start(config: &Config) -> Result<AtStart, ConfigError> {
    Ok(AtStart {
        listed: read(config)?,
        kept: read_kept(config)?,
    })
}

/// Of each service that has such a file.
fn read_kept(config: &Config) -> Result<Vec<Kept>, ConfigError> {
    let services = config.services.iter().enumerate();
    let with_file = services.filter_map(|(at, service)| Some((at, service.allow_state.clone()?)));
    let read = |(service, file): (usize, PathBuf)| {
        let prefixes = config::read_kept(&file)?;
        Ok(Kept {
            service,
            file,
            prefixes,
        })
    };
    with_file.map(read).collect()
}

/// The file that a service's live prefixes are in.
struct Keeping {
    service: String,
    id: u32,
    file: PathBuf,
    /// None: whatever is there has to be written again.
    written: Option<Vec<IpNet>>,
}

pub struct Lists {
    allow: Prefixes,
    deny: Prefixes,
    pub allowed: Arc<Allowed>,
    pub denied: Arc<Denied>,
    /// The kernel's, of their maps.
    pub ids: Vec<u32>,
    /// Just now: what was on its way through the programs meanwhile is listed a moment later.
    pub have_changed: bool,
    kept: Vec<Keeping>,
    /// So many changes of lists are in the files.
    changes_kept: u32,
}

impl Lists {
    /// `new`: the ids of services that haven't been there before, which begin with nothing but what was kept of
    /// them.
    pub fn open(config: &Config, at_start: AtStart, new: &[u32]) -> Result<Self> {
        let AtStart { listed, kept } = at_start;
        let has_lists = Prefixes::find(&config.instance, List::Allow)?.is_some();
        let open = |list| Prefixes::open(&config.instance, list);
        let services = config.services.iter();
        let services = services.map(|service| (service.name.clone(), service.id));
        let mut lists = Self {
            allow: open(List::Allow)?,
            deny: open(List::Deny)?,
            allowed: Arc::new(Allowed(open(List::Allow)?)),
            denied: Arc::new(Denied {
                prefixes: open(List::Deny)?,
                services: services.collect(),
            }),
            ids: kernel::list_ids(&config.instance)?,
            // With what a daemon before this one has left open.
            have_changed: true,
            kept: Vec::new(),
            changes_kept: 0,
        };
        lists.clear(new)?;
        for Kept {
            service,
            file,
            prefixes,
        } in kept
        {
            let service = &config.services[service];
            if !has_lists || new.contains(&service.id) {
                lists.allow.insert(service.id, &prefixes, Origin::Live)?;
            }
            lists.kept.push(Keeping {
                service: service.name.clone(),
                id: service.id,
                file,
                written: None,
            });
        }
        lists.configure(config, &listed)?;
        lists.keep()?;
        Ok(lists)
    }

    /// Writes what was put there live to the files that are to keep it.
    pub fn keep(&mut self) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let changes = self.allow.changes()?;
        let mut all = self.allow.of_all()?;
        for kept in &mut self.kept {
            let entries = all.remove(&kept.id).unwrap_or_default().into_iter();
            let live = entries.filter(|(_, origin)| *origin == Origin::Live);
            kept.write(live.map(|(prefix, _)| prefix).collect())?;
        }
        self.changes_kept = changes;
        Ok(())
    }

    /// The same, if there have been any.
    pub fn keep_changes(&mut self) -> Result<()> {
        if self.kept.is_empty() || self.allow.changes()? == self.changes_kept {
            return Ok(());
        }
        self.keep()
    }

    /// Forgets the services that the configuration has no longer. Not before their daemon is gone.
    pub fn retain(&mut self, config: &Config) -> Result<()> {
        let ids: Vec<_> = config.services.iter().map(|service| service.id).collect();
        kernel::retain_services(&config.instance, &ids, |gone| self.clear(gone))
    }

    fn clear(&mut self, services: &[u32]) -> Result<()> {
        self.allow.clear(services)?;
        self.deny.clear(services)
    }

    /// Returns how many prefixes there are by configuration.
    pub fn configure(&mut self, config: &Config, listed: &[Listed]) -> Result<usize> {
        let ids = || config.services.iter().map(|service| service.id);
        let (deny, allow) = (
            listed.iter().map(|it| &*it.deny),
            listed.iter().map(|it| &*it.allow),
        );
        self.deny.configure(ids().zip(deny))?;
        self.allow.configure(ids().zip(allow))?;
        let counts = listed.iter().map(|it| it.allow.len() + it.deny.len());
        Ok(counts.sum())
    }
}

impl Keeping {
    /// Whole, or not at all.
    fn write(&mut self, live: Vec<IpNet>) -> Result<()> {
        if self.written.as_ref() == Some(&live) {
            return Ok(());
        }
        let (service, file) = (&self.service, self.file.display());
        let mut text = format!(
            "# What `truepeer allow` has put on the list of service {service}. Written by truepeer.\n"
        );
        for prefix in &live {
            text += &format!("{prefix}\n");
        }
        write_whole(&self.file, &text).with_context(|| format!("writing {file}"))?;
        self.written = Some(live);
        Ok(())
    }
}

fn write_whole(path: &Path, text: &str) -> Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Looks balancers up where the programs do.
pub struct Allowed(Prefixes);

impl Allowed {
    pub fn has(&self, service: &Service, balancer: Balancer) -> bool {
        let found = self.0.has(service.id, balancer.0.ip());
        found.unwrap_or_else(|error| {
            tracing::error!("refusing {balancer}, as the allowlist can't be read: {error:#}");
            false
        })
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
