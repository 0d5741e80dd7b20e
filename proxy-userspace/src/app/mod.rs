//! Wiring: the one place that knows every part.

mod answers;
mod applications;
mod connections;
mod continuity;
mod control;
mod datagrams;
mod direct;
mod flows;
mod limits;
mod list_files;
pub mod listen;
pub mod lists;
mod reload;
mod reloads;
mod routes;
pub mod setup;
mod signals;
mod withheld;
mod workers;

pub use routes::check as check_targets;
pub use workers::all_has_arrived;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use connections::Names;
use continuity::Predecessor;
use datagrams::Datagrams;
use direct::{Direct, Limits};
use limits::Counting;
use list_files::ListFiles;
use listen::Claims;
use lists::{Lists, ReadLists};
use reloads::{Again, Reloads};
use setup::SetUp;
use tokio::sync::{Semaphore, mpsc};
use withheld::Withheld;
use workers::Workers;

use crate::{
    admin, check,
    config::{Config, Transport},
    drain::{Drain, Draining},
    facts,
    keeper::Held,
    kernel::{self, LowFds},
    netns,
    privileges::{self, Role},
    relay::{
        Connections, Shared,
        tcp::{HostSocketRequest, HostSockets},
    },
    sys::{self, Process},
    telemetry::{Log, Telemetry},
};

/// Serves until a signal ends it. The calling thread stays on the host; workers do not.
///
/// `again` reads the configuration anew for a reload.
pub fn run(config: Config, again: Again, log: &Log) -> Result<()> {
    let files = sys::raise_nofile();
    if files < sys::LEAST_NOFILE {
        bail!(
            "{files} files may be open, and truepeer has {} before its first connection: raise the limit, \
             as by `ulimit -Hn 1048576` or LimitNOFILE= in the unit",
            sys::LEAST_NOFILE
        );
    }
    let low = LowFds::hold().context("opening /dev/null")?;
    privileges::no_new()?;
    // Before the lists: what a reload could not read shall not be readable at start either.
    privileges::keep(Role::Start)?;
    let listed = lists::read_all(&config, |_| true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // An idle thread of the pool would keep the capabilities of the start.
        .thread_keep_alive(Duration::ZERO)
        .build()?;
    let ended = runtime.block_on(serve(config, again, listed, low, log));
    // A file that can't be read holds up nobody.
    runtime.shutdown_background();
    ended
}

/// Each service gets the id that its lists have; those of new ones.
fn assign_ids(config: &mut Config) -> Result<Vec<u32>> {
    let names = config.services.iter().map(|service| &*service.name);
    let (ids, new) = kernel::assign_services(&config.instance, names)?;
    for (service, id) in config.services.iter_mut().zip(ids) {
        service.id = id;
    }
    Ok(new)
}

/// What is there before anything is served.
struct Begun {
    predecessor: Option<Predecessor>,
    /// It may relay what it has until it ends.
    living: Option<Process>,
    /// Until it has all.
    taking: Option<admin::TakeOver>,
    /// None while a living predecessor has it.
    lock: Option<admin::Lock>,
    lists: Lists,
    host: netns::Host,
    set_up: SetUp,
}

async fn begin(config: &mut Config, listed: ReadLists, low: LowFds) -> Result<Begun> {
    let mut host = netns::watch().await?;
    check::at_start(config, &host.addresses).await?;
    routes::check(config).await?;
    let taking = match config.take_over {
        true => Some(admin::TakeOver::begin(&config.instance)?),
        false => None,
    };
    let mut predecessor = Predecessor::find(config).await?;
    // A living one has it until it hears of this one.
    let lock = match &predecessor {
        None => Some(lock(config)?),
        Some(living) if living.living().is_some() => None,
        // The kernel may not have closed all of its files yet.
        Some(_) => Some(admin::Lock::or_inherited(None, &config.instance).await?),
    };
    let living = predecessor.as_ref().and_then(Predecessor::living);
    let living = living.and_then(|pid| Process::open(pid).ok());
    let new = assign_ids(config)?;
    reload::keep_drained(config)?;
    let lists = Lists::open(config, listed, &new)?;
    let left = predecessor.as_mut().and_then(Predecessor::left);
    let pins = kernel::pins(&config.instance);
    let mut set_up = SetUp::new(config, &pins, low, left, true).await?;
    set_up.kernel.forward_log()?;
    if predecessor.is_none() {
        set_up.attach(config)?;
        let routed = netns::routed_devices().await?;
        set_up.follow(&mut host.links, routed.as_ref());
        continuity::end_forgotten(&set_up.spoof).await;
        set_up.open().await?;
    }
    Ok(Begun {
        predecessor,
        living,
        taking,
        lock,
        lists,
        host,
        set_up,
    })
}

async fn serve(
    mut config: Config,
    again: Again,
    listed: ReadLists,
    low: LowFds,
    log: &Log,
) -> Result<()> {
    let mut begun = begin(&mut config, listed, low).await?;
    let config = Arc::new(config);
    let limits = limits(&config);
    let (counting, looks) = Counting::new(begun.set_up.kernel.tallies()?, &config)?;
    let mut datagrams = Datagrams::claim(
        &config,
        &begun.set_up.routes,
        &begun.set_up.spoof.steer,
        &mut begun.set_up.kernel,
    )?;
    let direct = direct(&config, &mut begun.set_up, &begun.host, limits).await?;
    let mut claims = Claims::new(&config, direct.served(), &mut begun.set_up.kernel)?;
    let heart = begun.set_up.kernel.heart()?;
    let telemetry = Arc::new(telemetry(&config));
    let (shared, host_requests) = shared(&begun, &telemetry, &direct, &counting)?;
    let (drain, draining) = Drain::new();
    let served = (&mut claims, &mut datagrams);
    let (held, workers) = start(&config, &mut begun, served, (&shared, &draining)).await?;
    drop(begun.taking.take());
    let mut set_up = begun.set_up;
    let control = control::Control {
        predecessor: begun.living,
        names: Names::new(kernel::service_ids(&config.instance)?),
        reloads: Reloads::new(again, &config),
        spoof: set_up.spoof.clone(),
        routes: set_up.routes.clone(),
        entrance: set_up.entrance(),
        unkept: set_up.upkeep()?.start().await?,
        counters: set_up.kernel.counters()?,
        withheld: Withheld::new(longest_header_timeout(&config)),
        heart,
        kernel: set_up.kernel,
        steer: set_up.steer,
        list_files: ListFiles::watch(&config),
        lists: begun.lists,
        telemetry,
        connections: shared.connections.clone(),
        direct,
        datagrams,
        counting,
        looks,
        links: begun.host.links,
        host_requests,
        lock: admin::Lock::or_inherited(begun.lock, &config.instance).await?,
        asked: admin::Listener::open(&config.instance, config.status_group)?,
        held,
        claims,
        drain,
        log,
        config,
    };
    control.run(workers).await
}

/// Opens what balancers send to, and starts who serves it.
async fn start(
    config: &Config,
    begun: &mut Begun,
    (claims, datagrams): (&mut Claims, &mut Datagrams),
    (shared, draining): (&Arc<Shared>, &Draining),
) -> Result<(Option<Held>, Workers)> {
    let Begun { set_up, host, .. } = begun;
    let mut predecessor = begun.predecessor.take();
    let services = set_up.routes.services(config);
    let receivers = datagrams.listen(config, &services, predecessor.is_some())?;
    let left = predecessor.as_mut().map(Predecessor::listeners);
    let left = left.unwrap_or_default();
    let listeners = claims.listen(config, &services, &mut set_up.kernel, left)?;
    let items = continuity::listeners(&listeners)?;
    let (mut workers, changes) = workers::start(listeners, &set_up.spoof, shared, draining).await?;
    claims.served_by(changes);
    datagrams
        .serve(receivers, &set_up.spoof, shared, draining, &mut workers)
        .await?;
    if predecessor.is_some() {
        // From the first packet on there is somebody to serve it.
        set_up.attach(config)?;
    }
    set_up.follow(&mut host.links, None);
    set_up.guard(config)?;
    let held = continuity::hold(config, set_up, items, predecessor).await?;
    Ok((held, workers))
}

/// Of an instance that doesn't run, or not so that it could be continued.
fn lock(config: &Config) -> Result<admin::Lock> {
    let instance = &config.instance;
    admin::Lock::take(instance).map_err(|error| match config.take_over {
        true => error.context(format!(
            "no take-over: instance {instance} keeps nothing that could be handed on, as on kernels before \
             6.6 (or it is only starting); stop it, and start this one"
        )),
        false => error,
    })
}

fn limits(config: &Config) -> Limits {
    let daemon = maxconn(config);
    Limits {
        slots: Arc::new(Semaphore::new(daemon)),
        daemon,
        maxconn: config.maxconn.map(NonZeroUsize::get),
    }
}

fn shared(
    Begun {
        host,
        set_up,
        lists,
        ..
    }: &Begun,
    report: &Arc<Telemetry>,
    direct: &Direct,
    counting: &Arc<Counting>,
) -> Result<(Arc<Shared>, mpsc::Receiver<HostSocketRequest>)> {
    let (host_sockets, host_requests) = HostSockets::new();
    let shared = Arc::new(Shared {
        report: report.clone(),
        own: Arc::new(routes::Own::new(host, &set_up.spoof)),
        admission: lists.admission.clone(),
        places: counting.clone(),
        host_sockets,
        connections: Connections::default(),
        slots: direct.slots(),
        turn: tokio::sync::Mutex::default(),
        neighbours: direct.neighbours()?,
    });
    Ok((shared, host_requests))
}

fn telemetry(config: &Config) -> Telemetry {
    Telemetry::new(config.services.iter().map(|service| &*service.name))
}

async fn direct(
    config: &Config,
    set_up: &mut SetUp,
    host: &netns::Host,
    limits: Limits,
) -> Result<Direct> {
    let device = &set_up.spoof.device.name;
    let facts = facts::watch(config, device, kernel::has_reqsk_kfunc()).await?;
    let (loaded, addresses) = (set_up.direct, host.addresses.clone());
    let mut direct = Direct::new(
        &mut set_up.kernel,
        loaded,
        set_up.routes.clone(),
        facts,
        addresses,
        limits,
    )?;
    direct.judge(config, &mut set_up.kernel)?;
    direct.look_for_earlier(config.listens(Transport::Tcp))?;
    Ok(direct)
}

/// The programs count handshakes of all services together.
fn longest_header_timeout(config: &Config) -> Duration {
    let timeouts = config.services.iter().map(|service| service.header.timeout);
    timeouts.max().unwrap_or_default()
}

/// Each connection has two sockets. Other descriptors are the daemon's own: those that it has by now,
/// its listeners, and what devices that come, requests and pipes take.
fn maxconn(config: &Config) -> usize {
    const PER_CONNECTION: u64 = 2;
    const MOST_SPARE: u64 = 128;
    let files = sys::raise_nofile();
    let addresses = config.services.iter().map(|service| service.listen.len());
    let listeners = addresses.sum::<usize>() * config.workers.get();
    let spare = MOST_SPARE.min(files / 8) + listeners as u64;
    let possible = files.saturating_sub(sys::open_files() + spare) / PER_CONNECTION;
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
