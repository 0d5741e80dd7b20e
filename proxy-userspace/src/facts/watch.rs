//! Reading the facts, and following them: most by event, settings and listeners by looking again and
//! again.

use std::{collections::BTreeSet, net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result};
use rtnetlink::Handle;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Facts, Firewall, host,
    listeners::{Bound, Listeners},
    netlink,
    nftables::Ruleset,
    sysctls::Settings,
};
use crate::{
    config::{Config, Direct, Service},
    netns::{self, Bell},
    privileges::{self, Role},
};

/// Between two looks at what changes without an event.
const PERIOD: Duration = Duration::from_millis(500);
/// After an event: most changes come in several steps.
const SETTLE: Duration = Duration::from_millis(20);

/// How long firewall and routing aren't read again: bans or routes that come and go in large numbers all
/// the time would have that done without a pause.
const READ_PAUSE: Duration = Duration::from_millis(250);

/// The facts as they are now, of the calling thread's network namespace. `device` is truepeer's own
/// device, `kfunc` whether the kernel has `bpf_sk_assign_tcp_reqsk`.
pub async fn read(config: &Config, device: &str, kfunc: bool) -> Result<Facts> {
    Reader::new(config, device)?
        .all(config, device, kfunc)
        .await
}

/// Targets whose listener is bound to a device.
pub async fn bound(config: &Config) -> Result<Bound> {
    let mut listeners = Listeners::new(config)?;
    Ok(listeners.bound(&netns::netlink()?, &Bound::new()).await)
}

/// The facts, and each change of them within a second, for as long as somebody listens.
///
/// On a thread of its own: the kernel lets whoever asks about devices and rules wait while others
/// change them, for seconds if those are many, and the caller has to say all the time that it lives.
pub async fn watch(config: &Config, device: &str, kfunc: bool) -> Result<watch::Receiver<Facts>> {
    let (config, device) = (config.clone(), device.to_owned());
    let (begun, watching) = oneshot::channel();
    thread::Builder::new()
        .name("facts".into())
        .spawn(move || watch_here(begun, begin(&config, &device, kfunc)))
        .context("starting a thread that watches the host")?;
    watching
        .await
        .context("the thread that watches the host panicked")?
}

/// Watches until nobody listens any more.
fn watch_here(
    begun: oneshot::Sender<Result<watch::Receiver<Facts>>>,
    beginning: impl Future<Output = Result<Watching>>,
) {
    // Whoever asked may have gone: then there is nobody to tell.
    let _ = match privileges::runtime(Role::Watcher) {
        Err(error) => begun.send(Err(error)),
        Ok(runtime) => runtime.block_on(async {
            match beginning.await {
                Err(error) => begun.send(Err(error)),
                Ok(watching) => {
                    let told = begun.send(Ok(watching.sender.subscribe()));
                    watching.follow().await;
                    told
                }
            }
        }),
    };
}

async fn begin(config: &Config, device: &str, kfunc: bool) -> Result<Watching> {
    // Before the first reading, so that nothing falls between.
    let bells = Bells::new()?;
    let mut reader = Reader::new(config, device)?;
    let facts = reader.all(config, device, kfunc).await?;
    Ok(Watching {
        bells,
        reader,
        sender: watch::Sender::new(facts),
    })
}

/// Which kinds of facts are to be read again.
#[derive(Clone, Copy, Debug, Default)]
struct Stale {
    routing: bool,
    firewall: bool,
    ipsec: bool,
}

impl Stale {
    const fn any(self) -> bool {
        self.routing || self.firewall || self.ipsec
    }
}

struct Bells {
    routing: Bell,
    nftables: Bell,
    ipsec: Bell,
}

impl Bells {
    fn new() -> Result<Self> {
        Ok(Self {
            routing: Bell::of_routing().context("subscribing to netlink")?,
            nftables: Bell::of_nftables().context("subscribing to nftables")?,
            ipsec: Bell::of_ipsec().context("subscribing to IPsec policies")?,
        })
    }

    /// Adds to `stale` what has changed, or nothing, at a tick.
    async fn wait(&self, stale: &mut Stale, tick: impl Future) {
        tokio::select! {
            () = self.routing.rung() => stale.routing = true,
            () = self.nftables.rung() => stale.firewall = true,
            () = self.ipsec.rung() => stale.ipsec = true,
            _ = tick => {}
        }
    }
}

struct Watching {
    bells: Bells,
    reader: Reader,
    sender: watch::Sender<Facts>,
}

impl Watching {
    async fn follow(self) {
        let Self {
            bells,
            mut reader,
            sender,
        } = self;
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stale = Stale::default();
        let mut failing = false;
        while !sender.is_closed() {
            bells.wait(&mut stale, ticks.tick()).await;
            if stale.any() {
                sleep(SETTLE).await;
            }
            let mut facts = sender.borrow().clone();
            // What is still stale is read again at the next tick, and one line tells of it.
            let refreshed = reader.refresh(&mut facts, &mut stale).await;
            if let Err(error) = &refreshed
                && !failing
            {
                tracing::warn!("paths may not be what the host allows: {error:#}");
            }
            failing = refreshed.is_err();
            sender.send_if_modified(|old| {
                let changed = *old != facts;
                *old = facts;
                changed
            });
        }
    }
}

/// What reading takes, kept open.
struct Reader {
    settings: Settings,
    listeners: Listeners,
    routing: Handle,
    /// Addresses of the targets, but for loopback's.
    targets: BTreeSet<IpAddr>,
    /// When they may be read again.
    routing_from: Instant,
    firewall_from: Instant,
}

impl Reader {
    fn new(config: &Config, device: &str) -> Result<Self> {
        Ok(Self {
            settings: Settings::new(device),
            listeners: Listeners::new(config)?,
            routing: netns::netlink()?,
            targets: targets(config),
            routing_from: Instant::now(),
            firewall_from: Instant::now(),
        })
    }

    async fn all(&mut self, config: &Config, device: &str, kfunc: bool) -> Result<Facts> {
        let wanted = config.direct == Direct::Auto;
        Ok(Facts {
            wanted,
            kfunc,
            device: device.to_owned(),
            sysctls: self.settings.read(),
            routing_rules: host::routing_rules(&self.routing).await?,
            ipsec: netlink::ipsec_policies().await?,
            vrfs: host::vrfs(&self.routing).await?,
            firewall: firewall_if(wanted).await?,
            addresses: host::addresses(&self.routing).await?,
            own_nets: netns::own_nets().await?,
            here: host::here(&self.targets).await?,
            multipath: self.listeners.multipath(&BTreeSet::new()),
            bound: self.listeners.bound(&self.routing, &Bound::new()).await,
        })
    }

    /// Reads settings, listeners and what is stale, which isn't any more unless reading it failed.
    async fn refresh(&mut self, facts: &mut Facts, stale: &mut Stale) -> Result<()> {
        facts.sysctls = self.settings.read();
        facts.multipath = self.listeners.multipath(&facts.multipath);
        facts.bound = self.listeners.bound(&self.routing, &facts.bound).await;
        if stale.routing && self.routing_from <= Instant::now() {
            facts.routing_rules = host::routing_rules(&self.routing).await?;
            facts.vrfs = host::vrfs(&self.routing).await?;
            facts.addresses = host::addresses(&self.routing).await?;
            facts.own_nets = netns::own_nets().await?;
            facts.here = host::here(&self.targets).await?;
            stale.routing = false;
            self.routing_from = Instant::now() + READ_PAUSE;
        }
        if stale.ipsec {
            facts.ipsec = netlink::ipsec_policies().await?;
            stale.ipsec = false;
        }
        if stale.firewall && self.firewall_from <= Instant::now() {
            facts.firewall = firewall_if(facts.wanted).await?;
            stale.firewall = false;
            self.firewall_from = Instant::now() + READ_PAUSE;
        }
        Ok(())
    }
}

fn targets(config: &Config) -> BTreeSet<IpAddr> {
    let targets = config.services.iter().flat_map(Service::targets);
    let addresses = targets.map(|target| target.ip());
    addresses.filter(|address| !address.is_loopback()).collect()
}

/// Where nothing is to be direct, no program is run for it.
async fn firewall_if(wanted: bool) -> Result<Firewall> {
    match wanted {
        true => firewall().await,
        false => Ok(Firewall::known(Ruleset::default())),
    }
}

/// On a thread of its own: it waits for a program, and gives it a capability that nobody else shall
/// inherit.
pub async fn firewall() -> Result<Firewall> {
    let (done, read) = oneshot::channel();
    thread::Builder::new()
        .name("firewall".into())
        .spawn(move || {
            let read = privileges::hand_on_net_admin()
                .map_err(|error| format!("{error:#}"))
                .and_then(|()| Ruleset::read());
            // Nobody waits any more when the daemon stops.
            let _ = done.send(read.map_or_else(unreadable, Firewall::known));
        })
        .context("starting a thread to read the firewall")?;
    read.await
        .context("the thread that reads the firewall panicked")
}

/// Whoever has no `nft` has no rules either, unless another program made them.
fn unreadable(why: String) -> Firewall {
    match netlink::has_nftables() {
        Ok(false) => Firewall::known(Ruleset::default()),
        Ok(true) => Firewall::Unreadable(why),
        Err(error) => Firewall::Unreadable(format!("{why}; nor whether there is one: {error}")),
    }
}
