//! Reloads that were asked for, one after another: what a configuration changes is read, compared and looked into
//! while everything goes on.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::future::BoxFuture;
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use super::{
    list_files::ListFiles,
    lists::{self, ReadLists},
    routes, setup,
};
use crate::{
    admin::{LastReload, Reply},
    config::{Config, ConfigError},
    facts::{self, Facts},
    kernel::{self, Protocols},
    plan::Difference,
};

/// Reads the configuration as it is by now.
pub type Again = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A file may be a pipe that nobody writes to, or on a server that doesn't answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The configuration and all lists.
    All,
    /// The same, only to be told of.
    DryRun,
    /// A file that a list is made of has changed.
    Lists,
}

/// What reloads go by, and how the last one went.
pub struct Reloads {
    again: Again,
    /// What there are programs for.
    loaded: Protocols,
    pub last: Option<LastReload>,
    asked: VecDeque<Asked>,
    current: Option<(Asked, BoxFuture<'static, Result<Prepared>>)>,
}

/// Nobody waits for an answer to what a signal or a file's change has asked for.
struct Asked {
    what: What,
    reply: Option<Reply>,
}

/// A reload that is still to be done.
pub struct Ready {
    pub what: What,
    pub reply: Option<Reply>,
    pub prepared: Result<Prepared>,
}

/// What is to be served, read and compared.
pub struct Prepared {
    pub config: Config,
    pub difference: Difference,
    pub listed: ReadLists,
    /// Watched from before they were read.
    pub list_files: Option<ListFiles>,
    /// Of the host, if services change.
    pub facts: Option<watch::Receiver<Facts>>,
}

impl Reloads {
    pub fn new(again: Again, config: &Config) -> Self {
        Self {
            again,
            loaded: setup::protocols(config),
            last: None,
            asked: VecDeque::new(),
            current: None,
        }
    }

    pub fn ask(&mut self, what: What, reply: Option<Reply>) {
        // One that nobody waits for, and that hasn't begun, does for another one.
        let is_same = |it: &Asked| it.what == what && it.reply.is_none();
        if reply.is_some() || !self.asked.iter().any(is_same) {
            self.asked.push_back(Asked { what, reply });
        }
    }

    /// Until the next one can be done. Can be cancelled.
    pub async fn ready(&mut self, before: &Arc<Config>, device: &str) -> Ready {
        if self.current.is_none() {
            let Some(asked) = self.asked.pop_front() else {
                return pending().await;
            };
            let (before, again) = (before.clone(), self.again.clone());
            let (loaded, device) = (self.loaded, device.to_owned());
            let preparing = prepare(asked.what, again, loaded, before, device);
            self.current = Some((asked, Box::pin(preparing)));
        }
        let Some((_, preparing)) = &mut self.current else {
            return pending().await;
        };
        let prepared = preparing.await;
        match self.current.take() {
            Some((Asked { what, reply }, _)) => Ready {
                what,
                reply,
                prepared,
            },
            None => pending().await,
        }
    }
}

async fn prepare(
    what: What,
    again: Again,
    loaded: Protocols,
    before: Arc<Config>,
    device: String,
) -> Result<Prepared> {
    let known = before.clone();
    let config = read(move || match what {
        What::Lists => Ok(Config::clone(&known)),
        What::All | What::DryRun => Ok(again()?),
    });
    let config = config.await?;
    let difference = Difference::between(&before, &config)?;
    has_programs(loaded, setup::protocols(&config))?;
    // Before the files are read, so that no change of theirs falls between.
    let list_files = (what == What::All).then(|| ListFiles::watch(&config));
    let of_lists = config.clone();
    let listed = read(move || {
        let is_new = |name: &str| !before.services.iter().any(|known| known.name == name);
        Ok(lists::read_all(&of_lists, |it| is_new(&it.name))?)
    });
    let listed = listed.await?;
    if !difference.is_empty() {
        routes::check(&config).await?;
    }
    let facts = if what == What::All && !difference.is_empty() {
        let kfunc = kernel::has_reqsk_kfunc();
        Some(facts::watch(&config, &device, kfunc).await?)
    } else {
        None
    };
    Ok(Prepared {
        config,
        difference,
        listed,
        list_files,
        facts,
    })
}

/// Files, however long they are, but not for ever.
async fn read<T: Send + 'static>(files: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let read = timeout(PATIENCE, spawn_blocking(files)).await;
    let read = read.with_context(|| format!("nothing was read within {} s", PATIENCE.as_secs()))?;
    read.context("reading files")?
}

fn has_programs(loaded: Protocols, wanted: Protocols) -> Result<()> {
    let missing = if wanted.tcp && !loaded.tcp {
        "services of TCP"
    } else if wanted.udp && !loaded.udp {
        "services of UDP"
    } else if wanted.receivers & !loaded.receivers != 0 {
        "another header of UDP"
    } else {
        return Ok(());
    };
    bail!(
        "{missing}: the programs for that are loaded at a start. Start it anew with `truepeer run --take-over`, which \
         cuts no connection"
    );
}
