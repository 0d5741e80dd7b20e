//! What stands before anything is served: namespace, device, routes, programs. `check` makes the
//! same for its spoofed connections.

use std::{fs, os::fd::OwnedFd, path::Path, sync::Arc};

use anyhow::Result;
use tokio::sync::mpsc::UnboundedReceiver;

use super::routes::Routes;
use crate::{
    config::{Config, Direct},
    kernel::{self, Inheritance, Kernel, LowFds, Placement},
    netns::{Host, LinkEvent, SpoofNs},
};

/// What can be continued.
pub struct Left {
    pub netns: OwnedFd,
    pub inheritance: Inheritance,
}

/// The way from the spoof namespace to the targets. Gone when dropped.
pub struct SetUp {
    pub spoof: Arc<SpoofNs>,
    pub routes: Routes,
    pub kernel: Kernel,
    via_lo: bool,
    /// Whether connections may be direct, as far as the kernel goes.
    pub direct: bool,
}

impl SetUp {
    /// The programs adopt the maps pinned at `pins`. They see no packet before [`Self::attach`].
    /// With what a daemon before this one has left, if there was one.
    pub async fn new(
        config: &Config,
        host: &Host,
        pins: &Path,
        low: LowFds,
        left: Option<Left>,
    ) -> Result<Self> {
        let (spoof, inheritance) = match left {
            Some(Left { netns, inheritance }) => (
                SpoofNs::adopt(netns, config.steer).await?,
                Some(inheritance),
            ),
            None => (SpoofNs::create(config.steer).await?, None),
        };
        let spoof = Arc::new(spoof);
        let routes = Routes::plan(config, &spoof, host)?;
        spoof.add_addresses(routes.addresses()).await?;
        let via_lo = !is_lo_strict();
        let direct = config.direct == Direct::Auto && kernel::has_reqsk_kfunc();
        let placement = placement(&spoof, via_lo, direct);
        let mut kernel = Kernel::load(&config.instance, pins, &placement, low, inheritance)?;
        routes.fill(&mut kernel)?;
        Ok(Self {
            spoof,
            routes,
            kernel,
            via_lo,
            direct,
        })
    }

    pub fn attach(&mut self) -> Result<()> {
        let placement = placement(&self.spoof, self.via_lo, self.direct);
        self.kernel.attach(&placement)
    }

    /// Follows the devices that are there, so that replies are steered from the first one on.
    pub fn follow(&mut self, links: &mut UnboundedReceiver<LinkEvent>) {
        while let Ok(event) = links.try_recv() {
            self.kernel.follow(event, &self.spoof.device);
        }
        self.kernel.drop_left();
    }
}

fn placement(spoof: &SpoofNs, via_lo: bool, direct: bool) -> Placement<'_> {
    Placement {
        device: &spoof.device,
        steer: &spoof.steer,
        spoof_netns: spoof.id,
        via_lo,
        direct,
    }
}

/// Whether rp_filter would drop a client's packet that enters by `lo`. The kernel takes the larger
/// of `all` and the device's, and only 1 is strict.
pub fn is_lo_strict() -> bool {
    let read = |device: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse::<u8>().ok()
    };
    read("all").max(read("lo")) == Some(1)
}
