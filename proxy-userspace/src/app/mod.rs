//! Wiring: the one place that knows every part.

mod connections;
mod control;
mod listen;
mod routes;
mod workers;

use std::{fs, sync::Arc};

use anyhow::Result;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use crate::{
    admin,
    config::{Config, ConfigError, Service},
    drain::Drain,
    kernel::{Allowlist, Kernel, Placement},
    netns::{self, SpoofNs},
    relay::{Connections, HostSockets, Shared},
    sys,
    telemetry::Telemetry,
};

/// Serves until a signal ends it. The calling thread stays on the host; workers do not.
pub fn run(config: &Config) -> Result<()> {
    config.check()?;
    let allowed = read_allowlists(config)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(config, &allowed))
}

/// The prefixes of each service, by its id.
type Allowed = Vec<(u32, Vec<IpNet>)>;

/// Each service's prefixes, or the error that keeps the daemon from starting.
fn read_allowlists(config: &Config) -> Result<Allowed, ConfigError> {
    let read = |service: &Service| Ok((service.id, service.allow.read()?));
    config.services.iter().map(read).collect()
}

async fn serve(config: &Config, allowed: &[(u32, Vec<IpNet>)]) -> Result<()> {
    let _lock = admin::Lock::take(&config.instance)?;
    let mut allowlist = Allowlist::open(&config.instance)?;
    for (service, prefixes) in allowed {
        allowlist.configure(*service, prefixes)?;
    }
    let host = netns::watch().await?;
    let spoof = Arc::new(SpoofNs::create(config.steer).await?);
    let routes = routes::Routes::plan(config, &spoof, &host)?;
    spoof.add_addresses(routes.addresses()).await?;
    let placement = Placement {
        device: &spoof.device,
        steer: &spoof.steer,
        spoof_netns: spoof.id,
        via_lo: !is_lo_strict(),
    };
    let mut kernel = Kernel::load(&config.instance, &placement)?;
    kernel.forward_log()?;
    routes.fill(&mut kernel)?;
    let claims = listen::claim(config, &mut kernel)?;
    kernel.attach(&placement)?;

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
        device: spoof.device.clone(),
        links: host.links,
        host_requests,
        asked: admin::Listener::open(&config.instance)?,
        claims,
        drain,
    };
    control.run(workers).await
}

/// Whether rp_filter would drop a client's packet that enters by `lo`. The kernel takes the larger
/// of `all` and the device's, and only 1 is strict.
fn is_lo_strict() -> bool {
    let read = |device: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse::<u8>().ok()
    };
    read("all").max(read("lo")) == Some(1)
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
