//! What others change about truepeer's devices on the host is put right again: a device that is down or of
//! another MTU, addresses that were flushed, the default route that comes and goes with the host's own.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{LinkAttribute, LinkFlags, LinkMessage},
};
use thiserror::Error;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Bell, Device, LastResort, host, netlink, spoof};
use crate::privileges::{self, Role};

/// After an event: most changes come in several steps.
const SETTLE: Duration = Duration::from_millis(20);
/// Between two looks: where routes come and go all the time, most have nothing to do with us.
const PAUSE: Duration = Duration::from_millis(250);

/// After a look that has failed twice.
const LONG_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
#[error(
    "device {0} was removed, and with it the way back to every client: leave truepeer's devices alone, and \
     start it again"
)]
struct Removed(String);

/// Devices of ours, and the steer addresses that they have.
pub struct Upkeep {
    pub(super) device: Device,
    /// The index of the one for IPv4 addresses, if there is one.
    pub(super) steer_device: Option<u32>,
    /// As many as are wanted by now.
    pub(super) addresses: watch::Receiver<Vec<IpAddr>>,
    pub(super) last_resort: Box<dyn LastResort>,
}

impl Upkeep {
    /// From now on until nobody listens any more, who hears why it can't go on. On a thread of its own:
    /// the kernel lets it wait while others change devices, for seconds if those are many.
    pub async fn start(mut self) -> Result<oneshot::Receiver<anyhow::Error>> {
        let (begun, beginning) = oneshot::channel();
        let (failed, failure) = oneshot::channel();
        thread::Builder::new()
            .name("upkeep".into())
            .spawn(move || {
                // Whoever asked may have gone: then there is nobody to tell.
                let _ = match privileges::runtime(Role::Watcher) {
                    Err(error) => begun.send(Err(error)),
                    Ok(runtime) => {
                        let told = begun.send(Ok(()));
                        runtime.block_on(self.follow_until_closed(failed));
                        told
                    }
                };
            })
            .context("starting the thread that looks after truepeer's devices")?;
        beginning
            .await
            .context("the thread that looks after truepeer's devices panicked")??;
        Ok(failure)
    }

    async fn follow_until_closed(&mut self, mut failed: oneshot::Sender<anyhow::Error>) {
        let outcome = tokio::select! {
            outcome = self.follow() => outcome,
            () = failed.closed() => return,
        };
        if let Err(error) = outcome {
            // Nobody listens any more when the daemon stops.
            let _ = failed.send(error);
        }
    }

    async fn follow(&mut self) -> Result<()> {
        // Before the first look, so that nothing falls between.
        let bell = Bell::of_routing().context("subscribing to netlink")?;
        let netlink = netlink()?;
        loop {
            let next = Instant::now() + PAUSE;
            let mut failed = false;
            while let Err(error) = self.look(&netlink).await {
                if error.is::<Removed>() {
                    return Err(error);
                }
                // Others may be in the midst of it, or the host out of something.
                if failed {
                    tracing::warn!("looking after {}, and again: {error:#}", self.device.name);
                }
                sleep(if failed { LONG_PAUSE } else { SETTLE }).await;
                failed = true;
            }
            bell.rung().await;
            sleep_until(next).await;
            sleep(SETTLE).await;
        }
    }

    async fn look(&mut self, netlink: &Handle) -> Result<()> {
        let device = &self.device;
        mend(netlink, device.index, &device.name, Some(spoof::MTU)).await?;
        if let Some(index) = self.steer_device {
            mend(netlink, index, &device.steer_device(), None).await?;
        }
        // Off for the whole host, it takes IPv6 addresses with it, and lets nobody add one.
        let has_v6 = host::enable_v6(&self.device);
        let addresses = self.addresses.borrow().clone().into_iter();
        let wanted: Vec<_> = addresses.filter(|it| it.is_ipv4() || has_v6).collect();
        let v4 = self.steer_device.unwrap_or(self.device.index);
        let last_resort = &mut *self.last_resort;
        for address in host::add_addresses(&self.device, v4, &wanted, last_resort).await? {
            let device = &self.device.name;
            tracing::warn!("steer address {address} was removed beside {device}: added again");
        }
        Ok(())
    }
}

/// Has the device up and, where one is wanted, of this MTU: below 1280 bytes it loses IPv6.
async fn mend(netlink: &Handle, index: u32, name: &str, mtu: Option<u32>) -> Result<()> {
    let Some(link) = link(netlink, index).await? else {
        return Err(Removed(name.to_owned()).into());
    };
    if let Some(mtu) = mtu
        && let Some(found) = found_mtu(&link)
        && found != mtu
    {
        let mended = LinkUnspec::new_with_index(index).mtu(mtu).build();
        let mended = netlink.link().set(mended).execute().await;
        mended.with_context(|| format!("setting the MTU of {name} to {mtu} again"))?;
        tracing::warn!("device {name} had an MTU of {found}: it has {mtu} again");
    }
    if !link.header.flags.contains(LinkFlags::Up) {
        let up = LinkUnspec::new_with_index(index).up().build();
        let up = netlink.link().set(up).execute().await;
        up.with_context(|| format!("setting {name} up again"))?;
        tracing::warn!("device {name} was down: it is up again");
    }
    Ok(())
}

fn found_mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
}

/// None if there is no such device any more.
async fn link(netlink: &Handle, index: u32) -> Result<Option<LinkMessage>> {
    let mut links = netlink.link().get().match_index(index).execute();
    match links.try_next().await {
        Err(rtnetlink::Error::NetlinkError(error))
            if error.to_io().raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(None)
        }
        found => found.with_context(|| format!("reading device {index}")),
    }
}
