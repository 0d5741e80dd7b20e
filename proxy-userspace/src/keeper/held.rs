//! The daemon's side: it has a keeper, and keeps having one.

use std::{
    net::IpAddr,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::time::{sleep, timeout};

use super::{
    COMMAND,
    channel::Channel,
    item::{Items, lift, pack},
    message::{Message, Orders},
};
use crate::privileges;

/// What the keeper holds for this daemon. Duplicates are here as well, so that a keeper that dies
/// can be followed by another.
pub struct Held {
    instance: String,
    orders: Orders,
    items: Items,
    channel: Channel,
    /// Unless an earlier daemon started it.
    child: Option<Child>,
    /// Whether this is the keeper's daemon, as it knows.
    serves: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Another daemon, this process, has taken over.
    Replaced { by: i32 },
}

/// Between two keepers, should one die at once.
const PAUSE: Duration = Duration::from_secs(1);
/// The keeper waits a second or two for connections that are nearly over.
const LONGEST_END: Duration = Duration::from_secs(5);

impl Held {
    /// Starts a keeper. It knows what to do from the first descriptor on.
    pub async fn start(instance: &str, orders: Orders) -> Result<Self> {
        let (channel, child) = start(instance).await?;
        channel.send(&Message::Orders(orders.clone()), &[])?;
        Ok(Self {
            instance: instance.to_owned(),
            orders,
            items: Items::new(),
            channel,
            child: Some(child),
            serves: true,
        })
    }

    /// With a keeper that runs already.
    pub(super) fn with(
        instance: &str,
        orders: Orders,
        items: Items,
        channel: Channel,
    ) -> Result<Self> {
        let held = Self {
            instance: instance.to_owned(),
            orders,
            items,
            channel,
            child: None,
            serves: false,
        };
        held.tell_all(&held.channel)?;
        Ok(held)
    }

    /// Becomes the daemon in the keeper's eyes.
    pub(super) async fn confirm(&mut self) -> Result<()> {
        self.channel.send(&Message::Done, &[])?;
        match self.channel.answer().await? {
            Some((Message::Yours, _)) => {
                self.serves = true;
                Ok(())
            }
            Some(_) => bail!("the keeper doesn't let go"),
            None => bail!("the keeper has ended"),
        }
    }

    /// Has a keeper of its own in the place of the one that was there: of its own version, and with its
    /// own log. If there is none to be had, the other one does.
    pub(super) async fn renew(&mut self) {
        match self.start_and_tell().await {
            Ok((channel, child)) => {
                tell(&self.channel, &Message::Leave);
                self.channel = channel;
                self.child = Some(child);
            }
            Err(error) => tracing::warn!("staying with the keeper that was there: {error:#}"),
        }
    }

    /// Has them held, in the place of those of the same names.
    pub fn hold_all(&mut self, items: Items) {
        for (labels, fds) in pack(&items) {
            if let Err(error) = self.channel.send(&Message::Hold(labels), &fds) {
                // Its end is noticed where it is listened to, and the next one is told all.
                tracing::debug!("{error:#}");
            }
        }
        self.items.extend(items);
        lift(&mut self.items);
    }

    /// Those of these names.
    pub fn release_all(&mut self, is_one: impl Fn(&str) -> bool) {
        let names: Vec<_> = self
            .items
            .keys()
            .filter(|name| is_one(name))
            .cloned()
            .collect();
        names.iter().for_each(|name| self.release(name));
    }

    /// Has applications' connections at these steer addresses end as well, should no daemon come after this one.
    pub fn steer_too(&mut self, addresses: &[IpAddr]) {
        let known = &mut self.orders.steer;
        let new: Vec<_> = addresses.iter().filter(|it| !known.contains(it)).collect();
        if new.is_empty() {
            return;
        }
        known.extend(new);
        tell(&self.channel, &Message::Orders(self.orders.clone()));
    }

    pub fn release(&mut self, name: &str) {
        if self.items.remove(name).is_some() {
            tell(&self.channel, &Message::Release(vec![name.to_owned()]));
        }
    }

    /// Waits for something that the daemon has to know. If the keeper dies meanwhile, the next one is
    /// told all.
    pub async fn event(&mut self) -> Event {
        loop {
            match self.channel.receive().await {
                Ok(Some((Message::Replaced { by }, _))) => {
                    self.serves = false;
                    return Event::Replaced { by };
                }
                Ok(Some((Message::Ready, _))) => {}
                Ok(Some((message, _))) => tracing::debug!(?message, "not for a daemon"),
                Ok(None) => self.start_another().await,
                Err(error) => {
                    tracing::warn!("{error:#}");
                    self.start_another().await;
                }
            }
        }
    }

    async fn start_another(&mut self) {
        tracing::warn!("the keeper has ended; starting another");
        self.reap();
        loop {
            // Nothing to wait for: whoever waits for events may have something else to do.
            let begun = begin(&self.instance).and_then(|(channel, child)| {
                self.tell_all(&channel)?;
                Ok((channel, child))
            });
            match begun {
                Ok((channel, child)) => {
                    self.channel = channel;
                    self.child = Some(child);
                    return;
                }
                Err(error) => {
                    tracing::error!(
                        "without a keeper connections depend on this process: {error:#}"
                    );
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn start_and_tell(&self) -> Result<(Channel, Child)> {
        let (channel, child) = start(&self.instance).await?;
        self.tell_all(&channel)?;
        Ok((channel, child))
    }

    fn tell_all(&self, channel: &Channel) -> Result<()> {
        channel.send(&Message::Orders(self.orders.clone()), &[])?;
        for (labels, fds) in pack(&self.items) {
            channel.send(&Message::Hold(labels), &fds)?;
        }
        Ok(())
    }

    /// Has the keeper end what is left, and waits for it.
    pub async fn end(mut self) {
        tell(&self.channel, &Message::End);
        let gone = async { while let Ok(Some(_)) = self.channel.receive().await {} };
        if timeout(LONGEST_END, gone).await.is_err() {
            tracing::warn!("the keeper doesn't end");
        } else {
            self.reap();
        }
    }

    #[cfg(test)]
    pub(super) fn serve(&mut self) {
        self.serves = true;
    }

    /// As by kill -9.
    #[cfg(test)]
    pub(super) fn die(self) -> Result<()> {
        self.channel.cut()
    }

    /// It has closed its channel, which is the last thing that it does.
    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Should it hang instead: nothing is shared with it that would be missed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A daemon that ends by itself, be it with an error, leaves nothing to another.
impl Drop for Held {
    fn drop(&mut self) {
        if self.serves && !thread::panicking() {
            tell(&self.channel, &Message::End);
        }
    }
}

fn tell(channel: &Channel, message: &Message) {
    if let Err(error) = channel.send(message, &[]) {
        tracing::debug!("{error:#}");
    }
}

/// The keeper hears its daemon by its standard input, the one descriptor that it inherits from it.
async fn start(instance: &str) -> Result<(Channel, Child)> {
    let (ours, mut child) = begin(instance)?;
    match ours.answer().await {
        Ok(Some((Message::Ready, _))) => Ok((ours, child)),
        answer => {
            let _ = child.kill();
            let _ = child.wait();
            answer.context("starting the keeper")?;
            bail!("the keeper ends at once")
        }
    }
}

/// The same, without waiting until the next daemon could find it.
fn begin(instance: &str) -> Result<(Channel, Child)> {
    let (ours, theirs): (_, OwnedFd) = Channel::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("truepeer")
        .args([COMMAND, "--instance", instance])
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null());
    let child = spawn(command).context("starting the keeper")?;
    Ok((ours, child))
}

/// From a thread of its own, whose programs get CAP_NET_ADMIN also where the user isn't root.
fn spawn(mut command: Command) -> Result<Child> {
    let spawn = move || {
        privileges::hand_on_net_admin()?;
        Ok(command.spawn()?)
    };
    let thread = thread::Builder::new().spawn(spawn)?;
    thread.join().unwrap_or_else(|_| bail!("a thread panicked"))
}
