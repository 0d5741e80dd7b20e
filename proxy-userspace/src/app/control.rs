//! What the host side does while workers serve: signals, changes of the network, requests.

use std::{collections::BTreeMap, process, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{connections, workers::Workers};
use crate::{
    admin::{Asked, Listener, Reloaded, Request, ServiceStatus, Status},
    config::{Config, Service},
    drain::Drain,
    kernel::{Allowlist, Claim, Counters, Handover, Kernel},
    netns::{Device, LinkEvent},
    privileges::{self, Role},
    relay::{Connections, HostSocketRequest},
    telemetry::{Counts, Telemetry},
};

pub struct Control<'a> {
    pub config: &'a Config,
    pub kernel: Kernel,
    pub counters: Counters,
    pub allowlist: Allowlist,
    pub telemetry: Arc<Telemetry>,
    pub connections: Connections,
    pub handover: Option<Arc<Handover>>,
    pub device: Device,
    pub links: mpsc::UnboundedReceiver<LinkEvent>,
    pub host_requests: mpsc::Receiver<HostSocketRequest>,
    pub asked: Listener,
    pub claims: Vec<Claim>,
    pub drain: Drain,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

/// SIGTERM or SIGINT.
async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

impl Control<'_> {
    /// Until a signal, and then until the last worker has ended.
    pub async fn run(mut self, mut workers: Workers) -> Result<()> {
        let mut signals = Signals::new()?;
        // Those that are there already, so that replies are steered from the first one on.
        while let Ok(event) = self.links.try_recv() {
            self.kernel.follow(event, &self.device);
        }
        privileges::keep(Role::Control)?;
        self.say_ready();
        self.serve(&mut signals, &mut workers).await?;
        notify(sd_notify::NotifyState::Stopping);
        self.drain(&mut signals, &mut workers).await
    }

    fn say_ready(&self) {
        for service in &self.config.services {
            let listen: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
            let targets: Vec<_> = service.targets().map(|target| target.to_string()).collect();
            let (listen, targets) = (listen.join(", "), targets.join(", "));
            tracing::info!(service = service.name, "serving {listen} for {targets}");
        }
        let instance = &self.config.instance;
        let (workers, device) = (self.config.workers, &self.device.name);
        tracing::info!("ready: instance {instance}, {workers} workers, device {device}");
        notify(sd_notify::NotifyState::Ready);
    }

    async fn serve(&mut self, signals: &mut Signals, workers: &mut Workers) -> Result<()> {
        loop {
            tokio::select! {
                () = stop(&mut signals.terminate, &mut signals.interrupt) => return Ok(()),
                _ = signals.hangup.recv() => match self.reload() {
                    Reloaded::Prefixes(count) => tracing::info!("reloaded: {count} prefixes"),
                    Reloaded::Refused(why) => {
                        tracing::error!("not reloaded, the old allowlist stays: {why}");
                    }
                },
                Some(ended) = workers.join_next() => {
                    ended??;
                    bail!("a worker ended by itself");
                }
                Some(event) = self.links.recv() => self.kernel.follow(event, &self.device),
                Some(request) = self.host_requests.recv() => request.answer(),
                Some(asked) = self.asked.asked() => self.answer(asked),
            }
        }
    }

    /// Open connections go on; replies have to be steered on new devices as well.
    async fn drain(&mut self, signals: &mut Signals, workers: &mut Workers) -> Result<()> {
        let timeout = self.config.drain_timeout;
        tracing::info!("draining for up to {}", humantime::format_duration(timeout));
        self.drain.start();
        for claim in &self.claims {
            self.kernel.release(claim);
        }
        let deadline = Instant::now() + timeout.min(FOREVER);
        let mut stopped = false;
        loop {
            tokio::select! {
                () = stop(&mut signals.terminate, &mut signals.interrupt), if !stopped => {
                    stopped = true;
                    self.drain.stop_now();
                }
                () = sleep_until(deadline), if !stopped => {
                    stopped = true;
                    self.drain.stop_now();
                }
                ended = workers.join_next() => match ended {
                    Some(ended) => ended??,
                    None => break,
                },
                Some(event) = self.links.recv() => self.kernel.follow(event, &self.device),
                Some(request) = self.host_requests.recv() => request.answer(),
                Some(asked) = self.asked.asked() => self.answer(asked),
            }
        }
        if stopped {
            // The resets are on their way to the applications, and need the programs to get there.
            sleep(LAST_PACKETS).await;
        }
        tracing::info!("stopped");
        Ok(())
    }

    fn answer(&mut self, Asked { request, reply }: Asked) {
        let answer =
            match request {
                Request::Status => serde_json::to_string(&self.status()),
                Request::Reload => serde_json::to_string(&self.reload()),
                Request::Connections => {
                    let (open, handover) = (self.connections.iter(), self.handover.clone());
                    return reply.send_list(open.map(move |connection| {
                        connections::status(&connection, handover.as_deref())
                    }));
                }
            };
        match answer {
            Ok(answer) => reply.send(answer),
            Err(error) => tracing::error!("answering {request:?}: {error}"),
        }
    }

    fn status(&self) -> Status {
        let counts = |counts| serde_json::to_value::<Counts>(counts).unwrap_or_default();
        let kernel = self
            .counters
            .read()
            .map(|(name, count)| (name.to_owned(), count));
        let service = |service: &Service| ServiceStatus {
            name: service.name.clone(),
            listen: service.listen.clone(),
            targets: service.targets().collect(),
            connections: counts(self.telemetry.counts(&service.name)),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: self.config.instance.clone(),
            pid: process::id(),
            device: self.device.name.clone(),
            services: self.config.services.iter().map(service).collect(),
            connections: counts(self.telemetry.total()),
            kernel: BTreeMap::from_iter(kernel),
        }
    }

    /// Reads all before it changes anything.
    fn reload(&mut self) -> Reloaded {
        let configured = super::read_allowlists(self.config)
            .map_err(Into::into)
            .and_then(|services| self.configure(services));
        configured.map_or_else(
            |error| Reloaded::Refused(format!("{error:#}")),
            Reloaded::Prefixes,
        )
    }

    fn configure(&mut self, services: super::Allowed) -> Result<usize> {
        let mut count = 0;
        for (id, prefixes) in services {
            self.allowlist.configure(id, &prefixes)?;
            count += prefixes.len();
        }
        Ok(count)
    }
}

/// A packet's way through the host takes microseconds, unless the machine is very busy.
const LAST_PACKETS: Duration = Duration::from_millis(50);

/// As long as the clock can count to.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Does nothing when systemd didn't start us.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("telling systemd: {error}");
    }
}
