//! Wiring: the one place that knows every part.

mod connections;
mod control;
pub mod listen;
mod routes;
pub mod setup;
mod workers;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use setup::SetUp;
use tokio::sync::Semaphore;

use crate::{
    admin, check,
    config::{Config, ConfigError, Handover, Service},
    drain::Drain,
    kernel::{self, Allowlist, LowFds},
    netns,
    privileges::{self, Role},
    relay::{Connections, HostSockets, Shared, Shortcut},
    sys,
    telemetry::Telemetry,
};

/// Serves until a signal ends it. The calling thread stays on the host; workers do not.
pub fn run(config: &Config) -> Result<()> {
    let low = LowFds::hold().context("opening /dev/null")?;
    config.check()?;
    privileges::no_new()?;
    // Before the allowlists: what a reload could not read shall not be readable at start either.
    privileges::keep(Role::Start)?;
    let allowed = read_allowlists(config)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // An idle thread of the pool would keep the capabilities of the start.
        .thread_keep_alive(Duration::ZERO)
        .build()?
        .block_on(serve(config, &allowed, low))
}

/// The prefixes of each service, by its id.
pub type Allowed = Vec<(u32, Vec<IpNet>)>;

/// Each service's prefixes, or the error that keeps the daemon from starting.
pub fn read_allowlists(config: &Config) -> Result<Allowed, ConfigError> {
    let read = |service: &Service| Ok((service.id, service.allow.read()?));
    config.services.iter().map(read).collect()
}

async fn serve(config: &Config, allowed: &[(u32, Vec<IpNet>)], low: LowFds) -> Result<()> {
    check::at_start(config).await?;
    let _lock = admin::Lock::take(&config.instance)?;
    let mut allowlist = Allowlist::open(&config.instance)?;
    for (service, prefixes) in allowed {
        allowlist.configure(*service, prefixes)?;
    }
    let host = netns::watch().await?;
    let mut set_up = SetUp::new(config, &host, &kernel::pins(&config.instance), low).await?;
    set_up.kernel.forward_log()?;
    let claims = listen::claim(config, &mut set_up.kernel)?;
    set_up.attach()?;
    let SetUp {
        spoof,
        routes,
        mut kernel,
        ..
    } = set_up;

    let handover = match config.handover {
        Handover::Auto => Some(kernel.handover(&spoof.device)?),
        Handover::Off => None,
    };
    let (host_sockets, host_requests) = HostSockets::new();
    let names = config.services.iter().map(|service| &*service.name);
    let telemetry = Arc::new(Telemetry::new(names));
    let connections = Connections::default();
    let shared = Arc::new(Shared {
        report: telemetry.clone(),
        own: Arc::new(routes::Own::new(&host, &spoof)),
        host_sockets,
        connections: connections.clone(),
        slots: Arc::new(Semaphore::new(maxconn(config))),
        shortcut: handover
            .clone()
            .map(|handover| handover as Arc<dyn Shortcut>),
    });
    let services = routes.services(config);
    let (drain, draining) = Drain::new();
    let listeners = listen::listen(config, &services, &claims, &mut kernel)?;
    let workers = workers::start(listeners, &spoof, &shared, &draining).await?;
    let control = control::Control {
        config,
        counters: kernel.counters()?,
        kernel,
        allowlist,
        telemetry,
        connections,
        handover,
        device: spoof.device.clone(),
        links: host.links,
        host_requests,
        asked: admin::Listener::open(&config.instance)?,
        claims,
        drain,
    };
    control.run(workers).await
}

/// Each connection has two sockets; some descriptors are the daemon's own.
fn maxconn(config: &Config) -> usize {
    const OWN: u64 = 128;
    const PER_CONNECTION: u64 = 2;
    let possible = sys::raise_nofile().saturating_sub(OWN) / PER_CONNECTION;
    let possible = usize::try_from(possible)
        .unwrap_or(usize::MAX)
        .min(Semaphore::MAX_PERMITS);
    let Some(wanted) = config.maxconn else {
        return possible.max(1);
    };
    if wanted.get() > possible {
        tracing::warn!("--maxconn {wanted} is cut to {possible} by the limit of open files");
    }
    wanted.get().min(possible).max(1)
}
