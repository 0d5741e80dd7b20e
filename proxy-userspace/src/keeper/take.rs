//! The next daemon's side: it takes what its predecessor had.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use super::{
    channel::Channel,
    held::Held,
    item::{Items, unpack},
    listener::dial,
    message::{Given, Message, Orders, State},
    path,
};

/// What the keeper gave. Dropped, it leaves everything as it was.
pub struct Taken {
    instance: String,
    channel: Channel,
    /// Each is of the kind that it says.
    pub items: Items,
    /// Of the daemon that was.
    pub orders: Orders,
    /// The daemon that still lives.
    pub daemon: Option<Pid>,
}

/// From the instance's keeper, if there is one. Its clock stands still meanwhile.
pub async fn take(instance: &str) -> Result<Option<Taken>> {
    take_at(&path(instance), instance).await
}

/// Whether something waits to be taken.
pub fn is_there(instance: &str) -> Result<bool> {
    Ok(dial(&path(instance))?.is_some())
}

pub(super) async fn take_at(path: &Path, instance: &str) -> Result<Option<Taken>> {
    // One that ends before it has answered has a successor, or there is nothing left to take.
    while let Some(channel) = dial(path)? {
        if let Some(taken) = ask(channel, instance).await? {
            return Ok(Some(taken));
        }
    }
    Ok(None)
}

/// None if the keeper ends meanwhile.
async fn ask(channel: Channel, instance: &str) -> Result<Option<Taken>> {
    if channel.send(&Message::Take, &[]).is_err() {
        return Ok(None);
    }
    let mut items = Items::new();
    loop {
        let Some((message, fds)) = channel.answer().await.context("taking over")? else {
            return Ok(None);
        };
        let Given { labels, end } = match message {
            Message::Given(given) => given,
            Message::Busy => bail!("another process is just taking over instance {instance}"),
            _ => bail!("the keeper of instance {instance} is of another version"),
        };
        items.extend(unpack(labels, fds)?);
        if let Some(State { orders, daemon }) = end {
            return Ok(Some(Taken {
                instance: instance.to_owned(),
                channel,
                items,
                orders,
                daemon: daemon.and_then(Pid::from_raw),
            }));
        }
    }
}

impl Taken {
    /// From here on the caller is the daemon, with `items` for a keeper of its own. The daemon that was
    /// hears of it.
    pub async fn done(self, orders: Orders, items: Items) -> Result<Held> {
        let mut held = self.confirm(orders, items).await?;
        held.renew().await;
        Ok(held)
    }

    /// The same, with the keeper that was there.
    pub(super) async fn confirm(self, orders: Orders, items: Items) -> Result<Held> {
        let mut held = Held::with(&self.instance, orders, items, self.channel)?;
        held.confirm().await?;
        Ok(held)
    }
}
