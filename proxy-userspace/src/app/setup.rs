//! What stands before anything is served: namespace, device, routes, programs. `check` makes the
//! same for its spoofed connections.

use std::{fs, path::Path, sync::Arc};

use anyhow::Result;

use super::routes::Routes;
use crate::{
    config::{Config, Handover},
    kernel::{Kernel, LowFds, Placement},
    netns::{Host, SpoofNs},
};

/// The way from the spoof namespace to the targets. Gone when dropped.
pub struct SetUp {
    pub spoof: Arc<SpoofNs>,
    pub routes: Routes,
    pub kernel: Kernel,
    via_lo: bool,
    handover: bool,
}

impl SetUp {
    /// The programs adopt the maps pinned at `pins`. They see no packet before [`Self::attach`].
    pub async fn new(config: &Config, host: &Host, pins: &Path, low: LowFds) -> Result<Self> {
        let spoof = Arc::new(SpoofNs::create(config.steer).await?);
        let routes = Routes::plan(config, &spoof, host)?;
        spoof.add_addresses(routes.addresses()).await?;
        let via_lo = !is_lo_strict();
        let handover = config.handover == Handover::Auto;
        let placement = placement(&spoof, via_lo, handover);
        let mut kernel = Kernel::load(&config.instance, pins, &placement, low)?;
        routes.fill(&mut kernel)?;
        Ok(Self {
            spoof,
            routes,
            kernel,
            via_lo,
            handover,
        })
    }

    pub fn attach(&mut self) -> Result<()> {
        let placement = placement(&self.spoof, self.via_lo, self.handover);
        self.kernel.attach(&placement)
    }
}

fn placement(spoof: &SpoofNs, via_lo: bool, handover: bool) -> Placement<'_> {
    Placement {
        device: &spoof.device,
        steer: &spoof.steer,
        spoof_netns: spoof.id,
        via_lo,
        handover,
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
