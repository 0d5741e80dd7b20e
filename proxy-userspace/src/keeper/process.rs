//! The keeper itself.

use std::{
    fs,
    future::pending,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use proxy_common::{Life, map};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    LONGEST_ALONE, LONGEST_TAKE_OVER,
    channel::Channel,
    ending::{end_all, end_connections},
    item::{Items, lift, pack, store},
    kind::Kind,
    listener::Listener,
    message::{Given, Message, Orders, State},
    path,
};
use crate::{
    admin, kernel,
    netns::TcpSockets,
    privileges::{self, Role},
};

/// Runs as the keeper of the daemon that is at standard input.
pub fn main(instance: &str) -> Result<()> {
    // What is sent to the daemon's group, as by a terminal, isn't meant for us. Only a leader of a
    // group is refused, which what somebody else has started isn't.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"truepeer-keeper");
    privileges::no_new()?;
    privileges::keep(Role::Keeper)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let daemon = io::stdin().as_fd().try_clone_to_owned()?;
            let daemon = Channel::new(daemon).context("started by no daemon")?;
            let listener = Listener::open(&path(instance))?;
            daemon.send(&Message::Ready, &[])?;
            let control = admin::sockets(instance);
            Keeper::new(listener, control, daemon)?.run().await
        })
}

pub(super) struct Keeper {
    /// What is held, and what to do with it.
    held: Items,
    orders: Orders,
    daemon: Option<Channel>,
    taker: Option<Taker>,
    alone: Option<Alone>,
    terminate: Signal,
    /// The daemon's own sockets, which it can't remove any more.
    control: [PathBuf; 2],
    /// Last: who connects while all else is taken down hears the end when nothing is left of it.
    listener: Listener,
}

/// Somebody who wants to become the daemon, from connecting on.
struct Taker {
    channel: Channel,
    until: Instant,
    items: Items,
    orders: Option<Orders>,
}

/// Without a daemon.
struct Alone {
    since: Instant,
    until: Instant,
}

enum Occurrence {
    DaemonSaid(Heard),
    TakerSaid(Heard),
    Connected(Channel),
    TimeIsUp,
    Terminated,
}

/// A message, or the other side's end.
type Heard = Option<(Message, Vec<OwnedFd>)>;

enum Next {
    GoOn,
    End,
    Leave,
}

impl Keeper {
    pub(super) fn new(listener: Listener, control: [PathBuf; 2], daemon: Channel) -> Result<Self> {
        Ok(Self {
            held: Items::new(),
            orders: Orders::default(),
            daemon: Some(daemon),
            taker: None,
            alone: None,
            terminate: signal(SignalKind::terminate())?,
            control,
            listener,
        })
    }

    pub(super) async fn run(mut self) -> Result<()> {
        loop {
            let occurrence = self.occurrence().await;
            match self.handle(occurrence) {
                Ok(Next::GoOn) => {}
                Ok(Next::End) => return self.end().await,
                Ok(Next::Leave) => {
                    self.listener.leave();
                    return Ok(());
                }
                Err(error) => tracing::warn!("keeper: {error:#}"),
            }
        }
    }

    async fn occurrence(&mut self) -> Occurrence {
        let time_is_up = self.time_is_up();
        let taker = self.taker.as_ref().map(|taker| &taker.channel);
        tokio::select! {
            // Who has died goes before who comes.
            biased;
            heard = hear(self.daemon.as_ref()) => Occurrence::DaemonSaid(heard),
            heard = hear(taker) => Occurrence::TakerSaid(heard),
            channel = connected(&self.listener) => Occurrence::Connected(channel),
            () = until(time_is_up) => Occurrence::TimeIsUp,
            _ = self.terminate.recv() => Occurrence::Terminated,
        }
    }

    /// A taker stops the clock, but not for ever.
    fn time_is_up(&self) -> Option<Instant> {
        let taker = self.taker.as_ref().map(|taker| taker.until);
        taker.or(self.alone.as_ref().map(|alone| alone.until))
    }

    fn handle(&mut self, occurrence: Occurrence) -> Result<Next> {
        match occurrence {
            Occurrence::DaemonSaid(Some((Message::End, _))) => return Ok(Next::End),
            Occurrence::DaemonSaid(Some((Message::Leave, _))) => return Ok(Next::Leave),
            Occurrence::DaemonSaid(Some((message, fds))) => self.obey(message, fds)?,
            Occurrence::DaemonSaid(None) => self.daemon_died(),
            Occurrence::TakerSaid(Some((message, fds))) => self.serve(message, fds)?,
            Occurrence::TakerSaid(None) => self.taker_left("has ended"),
            Occurrence::Connected(channel) => self.connected(channel),
            Occurrence::TimeIsUp if self.taker.is_some() => self.taker_left("takes too long"),
            Occurrence::TimeIsUp => return Ok(Next::End),
            // systemd tells all processes of a service; the daemon says when it is time.
            Occurrence::Terminated if self.daemon.is_some() => {}
            Occurrence::Terminated => return Ok(Next::End),
        }
        Ok(Next::GoOn)
    }

    fn obey(&mut self, message: Message, fds: Vec<OwnedFd>) -> Result<()> {
        match message {
            Message::Hold(labels) => {
                self.held.extend(store(labels, fds)?);
                lift(&mut self.held);
            }
            Message::Release(names) => names.iter().for_each(|name| drop(self.held.remove(name))),
            Message::Orders(orders) => self.orders = orders,
            message => tracing::debug!(?message, "not from a daemon"),
        }
        Ok(())
    }

    fn daemon_died(&mut self) {
        let since = Instant::now();
        let until = since + self.orders.grace;
        self.daemon = None;
        self.alone = Some(Alone { since, until });
        let grace = humantime::format_duration(self.orders.grace);
        tracing::warn!("the daemon has died: open connections go on for up to {grace}");
    }

    fn connected(&mut self, channel: Channel) {
        if self.taker.is_some() {
            tokio::spawn(refuse(channel));
            return;
        }
        self.taker = Some(Taker {
            channel,
            until: Instant::now() + LONGEST_TAKE_OVER,
            items: Items::new(),
            orders: None,
        });
    }

    fn taker_left(&mut self, how: &str) {
        tracing::warn!("who was taking over {how}");
        self.taker = None;
        if let Some(alone) = &mut self.alone {
            let latest = alone.since + self.orders.grace.max(LONGEST_ALONE);
            alone.until = latest.min(Instant::now() + self.orders.grace);
        }
    }

    fn serve(&mut self, message: Message, fds: Vec<OwnedFd>) -> Result<()> {
        let Some(taker) = &mut self.taker else {
            return Ok(());
        };
        match message {
            Message::Take => {
                let daemon = self.daemon.as_ref();
                let daemon = daemon.map(|daemon| daemon.peer.as_raw_nonzero().get());
                let orders = self.orders.clone();
                give(&taker.channel, &self.held, State { orders, daemon })
            }
            Message::Hold(labels) => {
                taker.items.extend(store(labels, fds)?);
                Ok(())
            }
            Message::Orders(orders) => {
                taker.orders = Some(orders);
                Ok(())
            }
            Message::Done => self.change_daemons(),
            message => {
                tracing::debug!(?message, "not from a taker");
                Ok(())
            }
        }
    }

    fn change_daemons(&mut self) -> Result<()> {
        let Some(taker) = self.taker.take() else {
            return Ok(());
        };
        self.held = taker.items;
        lift(&mut self.held);
        if let Some(orders) = taker.orders {
            self.orders = orders;
        }
        if let Some(old) = self.daemon.take() {
            let by = taker.channel.peer.as_raw_nonzero().get();
            // It may be dying.
            let _ = old.send(&Message::Replaced { by }, &[]);
        }
        self.alone = None;
        let daemon = self.daemon.insert(taker.channel);
        daemon.send(&Message::Yours, &[])
    }

    async fn end(mut self) -> Result<()> {
        self.say(Life::Closing);
        // What waits in their queues is reset.
        self.held
            .retain(|_, item| !matches!(item.kind, Kind::Listener(_)));
        let ended = end_connections(self.orders.steer.iter().copied()).await;
        self.end_the_daemons();
        // The addresses before the programs, as for what can't be ended the programs are the last
        // ones between the application and the client.
        self.held
            .retain(|_, item| !matches!(item.kind, Kind::Tun(_)));
        self.say(Life::Ending);
        // The next daemon makes its own after this one's listener is gone.
        for socket in &self.control {
            let _ = fs::remove_file(socket);
        }
        match ended? {
            0 => tracing::debug!("nothing was left to end"),
            count => tracing::warn!("{count} open connections were reset"),
        }
        Ok(())
    }

    /// The ends of the daemon's connections that face applications, as long as resets find their way.
    fn end_the_daemons(&mut self) {
        for (_, asks) in self
            .held
            .extract_if(.., |_, item| item.kind == Kind::SockDiag)
        {
            match end_all(&mut TcpSockets::by(asks.fd)) {
                Ok(count) => tracing::debug!("{count} connections to applications were reset"),
                Err(error) => tracing::warn!("connections to applications are left: {error:#}"),
            }
        }
    }

    /// Has the programs know how far its end is.
    fn say(&self, what: Life) {
        if let Some(life) = self.held.get(&kernel::map_name(map::LIFE))
            && let Err(error) = kernel::say(what, &life.fd)
        {
            tracing::error!("the programs don't hear of the end: {error:#}");
        }
    }
}

async fn hear(channel: Option<&Channel>) -> Heard {
    let Some(channel) = channel else {
        return pending().await;
    };
    channel.receive().await.unwrap_or_else(|error| {
        // What can't be understood once can't be relied on afterwards.
        tracing::warn!("keeper: {error:#}");
        None
    })
}

async fn connected(listener: &Listener) -> Channel {
    loop {
        match listener.accept().await {
            Ok(channel) => return channel,
            Err(error) => tracing::warn!("keeper: {error:#}"),
        }
    }
}

async fn refuse(channel: Channel) -> Result<()> {
    // What is closed with something unread takes the answer with it.
    channel.answer().await?;
    channel.send(&Message::Busy, &[])
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn give(taker: &Channel, held: &Items, state: State) -> Result<()> {
    for (labels, fds) in pack(held) {
        let given = Given { labels, end: None };
        taker.send(&Message::Given(given), &fds)?;
    }
    let given = Given {
        labels: Vec::new(),
        end: Some(state),
    };
    taker.send(&Message::Given(given), &[])
}
