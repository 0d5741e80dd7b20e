//! The lists of a running daemon: who may connect, and which clients may not.

use std::{
    io::Write as _,
    mem,
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

/// All that the lists are made of, read before anything is changed.
pub struct ReadLists {
    listed: Vec<Listed>,
    kept: Vec<Kept>,
}

impl ReadLists {
    /// Prefixes by configuration.
    pub fn count(&self) -> usize {
        let counts = self.listed.iter().map(|it| it.allow.len() + it.deny.len());
        counts.sum()
    }
}

/// `is_new`: what is kept of others is in their lists already.
pub fn read_all(
    config: &Config,
    is_new: impl Fn(&Service) -> bool,
) -> Result<ReadLists, ConfigError> {
    Ok(ReadLists {
        listed: read(config)?,
        kept: read_kept(config, is_new)?,
    })
}

/// Of each service that has such a file.
fn read_kept(config: &Config, is_new: impl Fn(&Service) -> bool) -> Result<Vec<Kept>, ConfigError> {
    let mut all = Vec::new();
    for (service, it) in config.services.iter().enumerate() {
        let Some(file) = it.allow_state.clone() else {
            continue;
        };
        let prefixes = match is_new(it) {
            true => config::read_kept(&file)?,
            false => Vec::new(),
        };
        all.push(Kept {
            service,
            file,
            prefixes,
        });
    }
    Ok(all)
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
    pub admission: Arc<Admission>,
    /// The kernel's, of their maps.
    pub ids: Vec<u32>,
    /// Just now: what was on its way through the programs meanwhile is listed a moment later.
    pub have_changed: bool,
    kept: Vec<Keeping>,
    /// So many changes of lists are in the files.
    changes_kept: u32,
    /// Why there aren't more, once that was told.
    unkept: Option<String>,
}

impl Lists {
    /// `new`: the ids of services that haven't been there before, which begin with nothing but what was kept of
    /// them.
    pub fn open(config: &Config, read: ReadLists, new: &[u32]) -> Result<Self> {
        let ReadLists { listed, kept } = read;
        let has_lists = Prefixes::find(&config.instance, List::Allow)?.is_some();
        let open = |list| Prefixes::open(&config.instance, list);
        let mut lists = Self {
            allow: open(List::Allow)?,
            deny: open(List::Deny)?,
            admission: Arc::new(Admission::open(&config.instance)?),
            ids: kernel::list_ids(&config.instance)?,
            // With what a daemon before this one has left open.
            have_changed: true,
            kept: Vec::new(),
            changes_kept: 0,
            unkept: None,
        };
        lists.change(config, (&listed, kept), new, !has_lists)?;
        Ok(lists)
    }

    /// Has the lists that the configuration says, all at once for each. `new`: the ids of services that haven't been
    /// there before; `are_new`: so are the lists themselves.
    fn change(
        &mut self,
        config: &Config,
        (listed, kept): (&[Listed], Vec<Kept>),
        new: &[u32],
        are_new: bool,
    ) -> Result<()> {
        self.clear(new)?;
        let mut keeping = Vec::new();
        for Kept {
            service,
            file,
            prefixes,
        } in kept
        {
            let Service { name, id, .. } = &config.services[service];
            if are_new || new.contains(id) {
                self.allow.insert(*id, &prefixes, Origin::Live)?;
            }
            let mut same = self.kept.iter();
            let same = same.find(|it| it.id == *id && it.file == file);
            keeping.push(Keeping {
                service: name.clone(),
                id: *id,
                written: same.and_then(|it| it.written.clone()),
                file,
            });
        }
        let before = mem::replace(&mut self.kept, keeping);
        // Who can't keep what is there live doesn't get as far as to change the rest.
        let done = self.keep().and_then(|()| self.configure(config, listed));
        if done.is_err() {
            self.kept = before;
        }
        done
    }

    /// The same while they are in use.
    pub fn reload(&mut self, config: &Config, read: ReadLists, new: &[u32]) -> Result<()> {
        self.change(config, (&read.listed, read.kept), new, false)
    }

    /// Has the programs ask whom a balancer may send to, and what becomes of that, for the next datagram again.
    pub fn ask_again(&mut self) -> Result<()> {
        self.allow.ask_again()
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

    /// The same, if there have been any. What goes wrong is told once, and tried again each time.
    pub fn keep_changes(&mut self) {
        let unkept = self.keep_if_changed().err();
        let unkept = unkept.map(|error| format!("{error:#}"));
        match &unkept {
            Some(error) if self.unkept != unkept => {
                tracing::error!("{error}: what `truepeer allow` has changed isn't kept");
            }
            None if self.unkept.is_some() => {
                tracing::info!("what `truepeer allow` has changed is kept again");
            }
            _ => {}
        }
        self.unkept = unkept;
    }

    fn keep_if_changed(&mut self) -> Result<()> {
        match self.kept.is_empty() || self.allow.changes()? == self.changes_kept {
            true => Ok(()),
            false => self.keep(),
        }
    }

    /// Forgets services that nothing is open of any more.
    pub fn forget(&mut self, instance: &str, ids: &[u32]) -> Result<()> {
        self.clear(ids)?;
        kernel::forget_services(instance, ids)
    }

    fn clear(&mut self, services: &[u32]) -> Result<()> {
        self.allow.clear(services)?;
        self.deny.clear(services)
    }

    fn configure(&mut self, config: &Config, listed: &[Listed]) -> Result<()> {
        let ids = || config.services.iter().map(|service| service.id);
        let (deny, allow) = (
            listed.iter().map(|it| &*it.deny),
            listed.iter().map(|it| &*it.allow),
        );
        self.deny.configure(ids().zip(deny))?;
        self.allow.configure(ids().zip(allow))
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

/// Looks balancers and clients up where the programs do.
pub struct Admission {
    allow: Prefixes,
    deny: Prefixes,
}

impl Admission {
    fn open(instance: &str) -> Result<Self> {
        Ok(Self {
            allow: Prefixes::open(instance, List::Allow)?,
            deny: Prefixes::open(instance, List::Deny)?,
        })
    }

    pub fn allows(&self, service: u32, balancer: Balancer) -> bool {
        let found = self.allow.has(service, balancer.0.ip());
        found.unwrap_or_else(|error| {
            tracing::error!("refusing {balancer}, as the allowlist can't be read: {error:#}");
            false
        })
    }

    pub fn denies(&self, service: u32, client: Client) -> bool {
        let found = self.deny.has(service, client.0.ip());
        found.unwrap_or_else(|error| {
            tracing::error!("refusing {client}, as the deny list can't be read: {error:#}");
            true
        })
    }

    /// Whether an open connection has to end.
    pub fn ends(&self, open: &Open<'_>) -> bool {
        !open.balancer.is(open.client) && self.denies(open.service_id, open.client)
    }
}

impl relay::Admission for Admission {
    fn allows(&self, service: &relay::Service, balancer: Balancer) -> bool {
        self.allows(service.id, balancer)
    }

    fn denies(&self, service: &relay::Service, client: Client) -> bool {
        self.denies(service.id, client)
    }
}
