//! What stands before anything is served: namespace, device, routes, programs. `check` makes the
//! same for its spoofed connections.

use std::{collections::HashSet, net::IpAddr, os::fd::OwnedFd, path::Path, sync::Arc};

use anyhow::{Result, bail};
use tokio::sync::{mpsc::UnboundedReceiver, watch};

use super::{direct::Direct, routes::Routes};
use crate::{
    config::{self, Config, Service},
    facts,
    kernel::{self, Inheritance, Kernel, LowFds, Placement, Protocols},
    netns::{LinkEvent, SpoofNs, Upkeep},
};

/// What can be continued.
pub struct Left {
    pub netns: OwnedFd,
    pub steer_device: Option<OwnedFd>,
    /// What applications on this host answer from on its open connections.
    pub steer: Vec<IpAddr>,
    pub inheritance: Inheritance,
}

/// The way from the spoof namespace to the targets. Gone when dropped.
pub struct SetUp {
    pub spoof: Arc<SpoofNs>,
    pub routes: Routes,
    /// Those that are wanted by now.
    pub steer: watch::Sender<Vec<IpAddr>>,
    pub kernel: Kernel,
    via_lo: bool,
    /// Whether connections may be direct, as far as the kernel goes.
    pub direct: bool,
}

impl SetUp {
    /// The programs adopt the maps pinned at `pins`. They see no packet before [`Self::attach`], and
    /// there are no steer addresses before [`Self::open`], but with what a daemon before this one has
    /// left, if there was one: then its programs see all packets until these do.
    pub async fn new(
        config: &Config,
        pins: &Path,
        low: LowFds,
        left: Option<Left>,
        serves: bool,
    ) -> Result<Self> {
        let via_lo = !is_lo_strict();
        // Open connections of a daemon before this one go on, whatever path new ones take.
        let may_be_direct = config.direct == config::Direct::Auto || left.is_some();
        let direct = may_be_direct && protocols(config).tcp && kernel::has_reqsk_kfunc();
        // Who leaves no connection of an application needs none. It would go before the last words of the
        // namespace's own sockets are through, which would keep the namespace for long.
        let wants_steer_device = serves && direct && via_lo;
        let (spoof, inheritance) = spoof(config, left, via_lo, wants_steer_device).await?;
        let spoof = Arc::new(spoof);
        let routes = Routes::plan(config, &spoof, &Routes::default()).await?;
        if inheritance.is_some() {
            spoof.add_addresses(routes.addresses()).await?;
        }
        let placement = placement(config, &spoof, via_lo, direct);
        let mut kernel = Kernel::load(&config.instance, pins, &placement, low, inheritance)?;
        routes.fill(&mut kernel)?;
        Ok(Self {
            spoof,
            steer: watch::Sender::new(routes.addresses().to_vec()),
            routes,
            kernel,
            via_lo,
            direct,
        })
    }

    /// Adds the steer addresses. Not before the programs are attached: applications' sockets that a
    /// killed daemon has left would use them at once, to send to the real clients.
    pub async fn open(&self) -> Result<()> {
        self.spoof.add_addresses(self.routes.addresses()).await
    }

    pub fn upkeep(&mut self) -> Result<Upkeep> {
        let last_resort = Box::new(self.kernel.last_resort()?);
        Ok(self.spoof.upkeep(self.steer.subscribe(), last_resort))
    }

    pub fn entrance(&self) -> Entrance {
        Entrance {
            spoof: self.spoof.clone(),
            addresses: self.steer.subscribe(),
            is_lo: self.via_lo,
        }
    }

    pub fn attach(&mut self, config: &Config) -> Result<()> {
        let placement = placement(config, &self.spoof, self.via_lo, self.direct);
        self.kernel.attach(&placement)
    }

    /// Follows the devices that are there, so that replies are steered from the first one on. `routed`:
    /// those that routes lead to, if the others may wait.
    pub fn follow(
        &mut self,
        links: &mut UnboundedReceiver<LinkEvent>,
        routed: Option<&HashSet<u32>>,
    ) {
        let mut events = Vec::new();
        while let Ok(event) = links.try_recv() {
            events.push(event);
        }
        self.kernel.follow_all(events, &self.spoof.device, routed);
    }

    /// At the drivers, too. All that a daemon before this one has left and is still needed is taken by then.
    pub fn guard(&mut self, config: &Config) -> Result<()> {
        self.kernel.guard(config.guarded())?;
        self.kernel.drop_left();
        Ok(())
    }
}

/// Where packets for applications on this host come in.
pub struct Entrance {
    spoof: Arc<SpoofNs>,
    addresses: watch::Receiver<Vec<IpAddr>>,
    is_lo: bool,
}

impl Entrance {
    /// Leaves `lo` once rp_filter has become strict there. The veth does whatever becomes of that.
    pub async fn look(&mut self, direct: &mut Direct) -> Result<()> {
        if self.is_lo && is_lo_strict() {
            let addresses = self.addresses.borrow().clone();
            self.spoof.add_to_veth(&addresses).await?;
            direct.leave_lo()?;
            self.is_lo = false;
            tracing::info!("rp_filter is strict on lo: applications hear clients by the veth now");
        }
        Ok(())
    }

    /// Gives the devices these as well.
    pub async fn add(&self, addresses: &[IpAddr]) -> Result<()> {
        self.spoof.add_addresses(addresses).await?;
        if self.is_lo {
            return Ok(());
        }
        self.spoof.add_to_veth(addresses).await
    }
}

/// New, or the one of a daemon before this one.
async fn spoof(
    config: &Config,
    left: Option<Left>,
    via_lo: bool,
    wants_steer_device: bool,
) -> Result<(SpoofNs, Option<Inheritance>)> {
    let Some(left) = left else {
        let spoof = SpoofNs::create(config.steer, wants_steer_device).await?;
        return Ok((spoof, None));
    };
    // What comes in by a veth without any IPv4 address doesn't pass rp_filter, be it loose.
    let steer_device = left.steer_device.filter(|_| via_lo);
    let spoof = SpoofNs::adopt(left.netns, steer_device, config.steer).await?;
    if let Some(other) = left.steer.iter().find(|at| !spoof.steer.contains(at)) {
        // Nobody would steer them any more: they would leave for the real clients.
        bail!(
            "no take-over: instance {} has connections at the steer address {other}, which this one's \
             --steer{} doesn't have; stop it, and start this one",
            config.instance,
            if other.is_ipv4() { 4 } else { 6 }
        );
    }
    Ok((spoof, Some(left.inheritance)))
}

/// What the programs have to be there for.
pub fn protocols(config: &Config) -> Protocols {
    let mut services = config.services.iter();
    Protocols {
        udp: services.clone().any(Service::is_udp),
        receivers: services.clone().fold(0, |flags, service| {
            flags | super::datagrams::flags(config, service)
        }),
        tcp: services.any(|service| !service.is_udp()),
    }
}

fn placement<'a>(config: &Config, spoof: &'a SpoofNs, via_lo: bool, direct: bool) -> Placement<'a> {
    Placement {
        protocols: protocols(config),
        spoof: spoof.netns(),
        device: &spoof.device,
        steer: &spoof.steer,
        spoof_netns: spoof.id,
        via_lo,
        direct,
    }
}

/// Whether rp_filter would drop a client's packet that enters by `lo`.
pub fn is_lo_strict() -> bool {
    facts::is_strict_at("lo")
}
