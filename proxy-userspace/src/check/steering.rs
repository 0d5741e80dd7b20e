//! A steering of the check's own, beside that of a daemon that may be running.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};

use crate::{
    app::setup::SetUp,
    config::Config,
    config::Transport,
    facts::Bound,
    kernel::{Datagrams, LowFds, Unmounted},
    netns::{self, Host, SpoofNs, SteerNet, SteerNets},
    relay::Route,
};

/// Gone when dropped, however that comes to be.
pub struct Steering {
    set_up: SetUp,
    datagrams: Option<Datagrams>,
}

impl Steering {
    pub async fn new(config: &Config, host: &mut Host, bound: &Bound) -> Result<Self> {
        let config = Config {
            instance: format!("check of {}", config.instance),
            steer: free(config.steer, host),
            ..config.clone()
        };
        let pins = Unmounted::new()?;
        let mut set_up = SetUp::new(&config, &pins.path(), LowFds::default(), None, false).await?;
        set_up.attach(&config)?;
        let routed = netns::routed_devices().await?;
        set_up.follow(&mut host.links, routed.as_ref());
        // Before whoever takes the map that they share with it.
        let datagrams = set_up.kernel.datagrams()?;
        let entrances = set_up.routes.entrances(bound);
        if !entrances.is_empty() {
            set_up.kernel.enter_by(&entrances)?;
            set_up.kernel.direct()?.set_bound(true)?;
        }
        set_up.open().await?;
        Ok(Self {
            set_up,
            datagrams: Some(datagrams),
        })
    }

    /// What the programs know of datagrams, once; sockets tell of those that they get.
    pub fn datagrams(&mut self) -> Result<Datagrams> {
        self.set_up.kernel.tell_heard()?;
        self.datagrams.take().context("datagrams, a second time")
    }

    pub fn spoof(&self) -> &Arc<SpoofNs> {
        &self.set_up.spoof
    }

    pub fn device(&self) -> &str {
        &self.set_up.spoof.device.name
    }

    pub fn route(&self, target: SocketAddr, transport: Transport) -> Option<Route> {
        Some(self.set_up.routes.to(target, transport)?.route())
    }
}

/// Steer networks that were chosen, unless they are in use: then by the daemon, whose programs
/// would take the replies. The default of another device number does as well.
fn free(chosen: SteerNets, host: &Host) -> SteerNets {
    let unused = |net: &SteerNet| {
        net.address(0)
            .is_some_and(|first| !host.addresses.contains(&first))
    };
    SteerNets {
        v4: chosen.v4.filter(unused),
        v6: chosen.v6.filter(unused),
    }
}
