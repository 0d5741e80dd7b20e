//! Another configuration while it serves. What can fail is done first: then nothing has changed.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::SystemTime};

use anyhow::{Result, bail, ensure};
use proxy_common::{MAX_LISTENERS, MAX_TARGETS};

use super::{
    continuity,
    control::Control,
    list_files::ListFiles,
    listen::Listeners,
    lists::{self, ReadLists},
    reloads::{Prepared, Ready, What},
    routes::Routes,
};
use crate::{
    admin::{LastReload, Reloaded, TakeOver},
    config::{Config, Service, Transport},
    kernel,
    plan::Difference,
    relay::{self, udp::Receiver},
    sys::{Process, memory},
};

/// Sockets of new listen addresses.
struct Opened {
    listeners: Vec<Listeners>,
    receivers: Vec<Receiver>,
}

/// What is open of services that are there no longer.
#[derive(Default)]
pub(super) struct OfFormer {
    services: HashSet<u32>,
    targets: HashSet<SocketAddr>,
    /// Where datagrams go.
    aims: HashSet<SocketAddr>,
}

/// Those that were drained before, by whichever daemon of the instance, still are.
pub fn keep_drained(config: &mut Config) -> Result<()> {
    let drained = kernel::drained_services(&config.instance)?;
    for service in &mut config.services {
        service.drained = drained.contains(&service.id);
    }
    Ok(())
}

impl Control<'_> {
    /// Does what was read and compared.
    pub(super) async fn finish_reload(&mut self, ready: Ready) {
        let Ready {
            what,
            reply,
            prepared,
        } = ready;
        let outcome = match prepared {
            Ok(prepared) if what == What::DryRun => Ok(told(&prepared)),
            Ok(prepared) => self.apply(prepared).await,
            Err(error) => Err(error),
        };
        let outcome = outcome.unwrap_or_else(|error| Reloaded::Refused(format!("{error:#}")));
        say(what, &outcome);
        // What was read and compared is gone, and was much with long lists.
        memory::trim();
        if let Some(reply) = reply {
            reply.send_json(&outcome);
        }
        if what == What::All {
            self.reloads.last = Some(LastReload {
                at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
                outcome,
            });
        }
    }

    async fn apply(&mut self, mut prepared: Prepared) -> Result<Reloaded> {
        if self.drain.has_begun() && !prepared.difference.is_empty() {
            bail!("it is stopping");
        }
        let _alone = TakeOver::none_begins(&self.config.instance)?;
        let told = told(&prepared);
        let config = &mut prepared.config;
        super::assign_ids(config)?;
        let ids = config.services.iter().map(|service| service.id);
        let new: Vec<_> = ids.filter(|id| self.names.of(*id).is_empty()).collect();
        self.names.add(config);
        if self.config.services.iter().all(|service| service.drained) {
            // Whoever has drained all doesn't want what comes to serve.
            kernel::set_drained(&config.instance, &new, true)?;
        }
        keep_drained(config)?;
        self.change(prepared, &new).await?;
        self.tell_changes();
        Ok(told)
    }

    /// Whether a service, or all, take nobody new. How much of them is open.
    pub(super) fn set_drained(&mut self, service: Option<u32>, drained: bool) -> Result<usize> {
        let is_meant = |it: u32| service.is_none_or(|service| service == it);
        let services = self.config.services.iter();
        let ids: Vec<_> = services
            .map(|it| it.id)
            .filter(|id| is_meant(*id))
            .collect();
        ensure!(!ids.is_empty(), "that service isn't served any longer");
        let _alone = TakeOver::none_begins(&self.config.instance)?;
        kernel::set_drained(&self.config.instance, &ids, drained)?;
        self.follow_drained()?;
        let direct = self.direct.flows().into_iter().map(|flow| flow.service);
        let daemon = self.connections.iter();
        let daemon = daemon.map(|connection| connection.service.id);
        let datagrams = self.datagrams.flows().into_iter().map(|flow| flow.service);
        let open = direct.chain(daemon).chain(datagrams);
        Ok(open.filter(|id| is_meant(*id)).count())
    }

    /// The same services in other words.
    pub(super) fn follow_drained(&mut self) -> Result<()> {
        let mut config = Config::clone(&self.config);
        keep_drained(&mut config)?;
        let changed = self.config.services.iter().zip(&config.services);
        for (_, service) in changed.filter(|(before, now)| before.drained != now.drained) {
            let what = if service.drained {
                "drained"
            } else {
                "serves again"
            };
            tracing::info!(service = service.name, "{what}");
        }
        self.update_datagrams(&config)?;
        self.direct
            .decide(&config, &self.claims, &mut self.kernel)?;
        self.config = config.into();
        Ok(())
    }

    async fn change(&mut self, prepared: Prepared, new: &[u32]) -> Result<()> {
        let Prepared {
            config,
            difference,
            listed,
            list_files,
            facts,
        } = prepared;
        let Some(facts) = facts.filter(|_| !difference.is_empty()) else {
            self.set_lists(&config, listed, new)?;
            self.watch(list_files);
            self.config = config.into();
            return Ok(());
        };
        let routes = Routes::plan(&config, &self.spoof, &self.routes).await?;
        self.entrance.add(routes.addresses()).await?;
        let services = routes.services(&config);
        let opened = match self.open(&config, &routes, &services, &difference) {
            Ok(opened) => opened,
            Err(error) => {
                routes.withdraw(&self.routes, &mut self.kernel)?;
                self.kernel.guard(self.config.guarded())?;
                return Err(error);
            }
        };
        self.steer.send_replace(routes.addresses().to_vec());
        self.telemetry
            .add(config.services.iter().map(|it| &*it.name));
        if let Err(error) = self.set_lists(&config, listed, new) {
            self.undo(&difference, &routes).await?;
            return Err(error);
        }
        self.counting.limit(&config)?;
        self.routes = routes.clone();
        self.direct.follow(routes, Some(facts));
        self.update_datagrams(&config)?;
        self.direct
            .decide(&config, &self.claims, &mut self.kernel)?;
        self.hold(&opened.listeners)?;
        let kernel = &mut self.kernel;
        self.claims
            .serve(&config, &services, opened.listeners, kernel)?;
        self.datagrams.follow(&config, &services, opened.receivers);
        self.close(&difference).await?;
        self.kernel.guard(config.guarded())?;
        self.withheld
            .set_patience(super::longest_header_timeout(&config));
        self.watch(list_files);
        self.config = config.into();
        self.count_those_there()
    }

    fn watch(&mut self, list_files: Option<ListFiles>) {
        if let Some(list_files) = list_files {
            self.list_files = list_files;
        }
    }

    /// What is listed is what the configuration in force says, as far as its files still do.
    async fn undo(&mut self, difference: &Difference, routes: &Routes) -> Result<()> {
        let (new, kernel) = (&difference.tcp.new, &mut self.kernel);
        self.claims.close(new, kernel).await?;
        routes.withdraw(&self.routes, kernel)?;
        kernel.guard(self.config.guarded())?;
        let config = self.config.clone();
        let listed = lists::read_all(&config, |_| false)?;
        self.set_lists(&config, listed, &[])
    }

    /// All new addresses, or none.
    fn open(
        &mut self,
        config: &Config,
        routes: &Routes,
        services: &[Arc<relay::Service>],
        difference: &Difference,
    ) -> Result<Opened> {
        let (tcp, udp) = (&difference.tcp, &difference.udp);
        self.guard_as_well(config)?;
        has_room(config, difference)?;
        routes.fill(&mut self.kernel)?;
        let served = routes.served(config);
        self.direct.look_for_earlier(tcp.new.iter().copied())?;
        let before = self.config.clone();
        let receivers = self.datagrams.add((&before, config), services, &udp.new)?;
        let kernel = &mut self.kernel;
        let listeners = self
            .claims
            .add(config, (services, &served), &tcp.new, kernel)?;
        Ok(Opened {
            listeners,
            receivers,
        })
    }

    /// Where a new configuration guards services, besides where they are guarded: there may be somebody else's program.
    fn guard_as_well(&mut self, config: &Config) -> Result<()> {
        let mut guarded = self.config.guarded();
        for (device, services) in config.guarded() {
            guarded.entry(device).or_default().extend(services);
        }
        self.kernel.guard(guarded)
    }

    /// Has the keeper hold them.
    fn hold(&mut self, listeners: &[Listeners]) -> Result<()> {
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        held.steer_too(self.routes.addresses());
        held.hold_all(continuity::listeners(listeners)?);
        Ok(())
    }

    async fn close(&mut self, difference: &Difference) -> Result<()> {
        if let Some(held) = &mut self.held {
            let old = &difference.tcp.old;
            held.release_all(|item| old.iter().any(|at| continuity::is_listener_at(item, *at)));
        }
        self.claims
            .close(&difference.tcp.old, &mut self.kernel)
            .await?;
        self.datagrams.close(&difference.udp.old).await?;
        self.lists.ask_again()
    }

    fn update_datagrams(&mut self, config: &Config) -> Result<()> {
        let kernel = &mut self.kernel;
        self.datagrams.update(config, &self.routes, kernel)?;
        self.lists.ask_again()
    }

    fn set_lists(&mut self, config: &Config, listed: ReadLists, new: &[u32]) -> Result<()> {
        self.lists.reload(config, listed, new)?;
        self.end_denied().map(drop)
    }

    /// None: nothing is known of any.
    pub(super) fn open_of_former_services(&self) -> Option<OfFormer> {
        if !self.has_former_services() {
            return None;
        }
        let mut open = OfFormer::default();
        let mut note = |service, target| {
            open.services.insert(service);
            open.targets.insert(target);
        };
        for flow in self.direct.flows() {
            let it = self.direct.open(&self.names, &flow);
            note(it.service_id, it.target.0);
        }
        for connection in self.connections.iter() {
            note(connection.service.id, connection.target.0);
        }
        let datagrams = self.datagrams.flows();
        for flow in &datagrams {
            let target = self.routes.target_behind(flow.ends.aim);
            let target = target.map_or(flow.ends.aim, |target| target.0);
            note(flow.service, target);
        }
        open.aims = datagrams.iter().map(|flow| flow.ends.aim).collect();
        Some(open)
    }

    fn has_former_services(&self) -> bool {
        self.names.has_others_than(&self.config)
            || self.routes.has_others_than(&self.config)
            || self.datagrams.has_former()
    }

    /// What was open when `open` was looked at has been heard of since.
    pub(super) fn forget_former_services(&mut self, open: Option<OfFormer>) -> Result<()> {
        let Some(OfFormer {
            services,
            targets,
            aims,
        }) = open
        else {
            return Ok(());
        };
        let config = self.config.clone();
        if !self.predecessor.as_ref().is_some_and(Process::is_alive) {
            let gone = self.names.retain(&config, |it| services.contains(&it));
            if !gone.is_empty() {
                self.lists.forget(&config.instance, &gone)?;
            }
        }
        self.datagrams.forget_former(&aims, &mut self.kernel)?;
        let is_open = |target| targets.contains(&target);
        if self.routes.retain(&config, is_open, &mut self.kernel)? {
            self.direct.follow(self.routes.clone(), None);
            self.update_datagrams(&config)?;
        }
        Ok(())
    }
}

/// Addresses that go are there until those that come are.
fn has_room(config: &Config, difference: &Difference) -> Result<()> {
    let each = [
        (Transport::Tcp, &difference.tcp),
        (Transport::Udp, &difference.udp),
    ];
    for (transport, addresses) in each {
        let count = config.listens(transport).count() + addresses.old.len();
        ensure!(
            count <= MAX_LISTENERS as usize,
            "{count} listen addresses of {} at once, and there is room for {MAX_LISTENERS}",
            transport.name()
        );
    }
    let targets = config.services.iter().flat_map(Service::targets).count();
    ensure!(
        2 * targets <= MAX_TARGETS as usize,
        "{targets} targets, and there is room for half of {MAX_TARGETS} beside those of before"
    );
    Ok(())
}

/// What it changes.
fn told(prepared: &Prepared) -> Reloaded {
    Reloaded::Done {
        prefixes: prepared.listed.count(),
        changes: prepared.difference.lines(),
    }
}

fn say(what: What, outcome: &Reloaded) {
    match (what, outcome) {
        (What::DryRun, _) => {}
        (What::All, Reloaded::Done { prefixes, changes }) => {
            for change in changes {
                tracing::info!("reload: {change}");
            }
            tracing::info!("reloaded: {prefixes} prefixes");
        }
        (What::All, Reloaded::Refused(error)) => {
            tracing::error!("not reloaded, all stays as it was: {error}");
        }
        (What::Lists, Reloaded::Done { prefixes, .. }) => {
            tracing::info!("a list's file has changed: reloaded: {prefixes} prefixes");
        }
        (What::Lists, Reloaded::Refused(error)) => {
            tracing::error!("a list's file has changed: not reloaded, the old lists stay: {error}");
        }
    }
}
