//! What the host side does while workers serve: signals, changes of the network, requests.

use std::{
    future::{pending, ready},
    mem,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};

use super::{
    connections::{Names, Open},
    continuity,
    datagrams::Datagrams,
    direct::Direct,
    limits::{Counting, Looks},
    list_files::ListFiles,
    listen::Claims,
    lists::Lists,
    reloads::{Reloads, What},
    routes::Routes,
    setup::Entrance,
    signals::{Signals, stop},
    withheld::Withheld,
    workers::Workers,
};
use crate::{
    admin::{Listener, Lock},
    config::Config,
    drain::Drain,
    keeper::{Event, Held},
    kernel::{Counters, Heart, Kernel},
    netns::{self, LinkEvent, SpoofNs},
    privileges::{self, Role},
    relay::{Connections, tcp::HostSocketRequest},
    sys::Process,
    telemetry::{Log, Telemetry},
};

pub struct Control<'a> {
    pub config: Arc<Config>,
    pub reloads: Reloads,
    /// Relays what it has, until it ends.
    pub predecessor: Option<Process>,
    pub names: Names,
    pub routes: Routes,
    pub spoof: Arc<SpoofNs>,
    /// Steer addresses that are wanted.
    pub steer: watch::Sender<Vec<IpAddr>>,
    pub kernel: Kernel,
    pub counters: Counters,
    pub withheld: Withheld,
    pub heart: Heart,
    pub lists: Lists,
    pub list_files: ListFiles,
    pub telemetry: Arc<Telemetry>,
    pub connections: Connections,
    pub direct: Direct,
    pub datagrams: Datagrams,
    pub counting: Arc<Counting>,
    pub looks: Looks,
    pub links: mpsc::UnboundedReceiver<LinkEvent>,
    pub host_requests: mpsc::Receiver<HostSocketRequest>,
    pub asked: Listener,
    pub claims: Claims,
    pub drain: Drain,
    pub log: &'a Log,
    pub entrance: Entrance,
    /// Why truepeer's devices can't be what they were any more.
    pub unkept: oneshot::Receiver<anyhow::Error>,
    /// Last: when this ends by an error, the keeper ends what is left while programs are there.
    pub held: Option<Held>,
    pub lock: Lock,
}

/// Why it serves no more.
enum End {
    Stopped,
    /// By this process.
    Replaced(i32),
}

async fn keeper_event(held: &mut Option<Held>) -> Event {
    match held {
        Some(held) => held.event().await,
        None => pending().await,
    }
}

impl Control<'_> {
    /// Until a signal, and then until the last worker has ended.
    pub async fn run(mut self, mut workers: Workers) -> Result<()> {
        let mut signals = Signals::new()?;
        privileges::keep(Role::Control)?;
        self.direct.count_taken_over(&self.names, &self.telemetry);
        if self.predecessor.is_some() {
            // As somebody may have said to that one meanwhile.
            self.follow_drained()?;
        }
        self.count_those_there()?;
        self.forget_former_services(self.open_of_former_services())?;
        self.say_ready();
        let end = self.serve(&mut signals, &mut workers).await?;
        match end {
            End::Stopped => {
                notify(sd_notify::NotifyState::Stopping);
                self.drain(&mut signals, &mut workers).await?;
            }
            End::Replaced(by) => {
                // systemd believes only the main process who the next one is.
                notify(sd_notify::NotifyState::MainPid(by.unsigned_abs()));
                return self.leave(signals, workers).await;
            }
        }
        self.direct.say_ending()?;
        if let Some(held) = self.held {
            held.end().await;
        }
        tracing::info!("stopped");
        Ok(())
    }

    fn say_ready(&self) {
        for service in &self.config.services {
            let listen: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
            let targets: Vec<_> = service.targets().map(|target| target.to_string()).collect();
            let (listen, targets) = (listen.join(", "), targets.join(", "));
            tracing::info!(service = service.name, "serving {listen} for {targets}");
        }
        let instance = &self.config.instance;
        let (workers, device) = (self.config.workers, &self.spoof.device.name);
        tracing::info!("ready: instance {instance}, {workers} workers, device {device}");
        notify(sd_notify::NotifyState::Ready);
    }

    async fn serve(&mut self, signals: &mut Signals, workers: &mut Workers) -> Result<End> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick()?,
                Ok(()) = self.direct.facts.changed() => {
                    netns::keep_forwarding(&self.spoof.device);
                    if self.direct.facts.borrow().sysctls.strict_veth {
                        netns::keep_loose(&self.spoof.device);
                    }
                    self.entrance.look(&mut self.direct).await?;
                    self.direct.decide(&self.config, &self.claims, &mut self.kernel)?;
                }
                () = stop(&mut signals.terminate, &mut signals.interrupt) => {
                    return Ok(End::Stopped);
                }
                Event::Replaced { by } = keeper_event(&mut self.held) => {
                    return Ok(End::Replaced(by));
                }
                Ok(error) = &mut self.unkept => return Err(error),
                _ = signals.hangup.recv() => self.reloads.ask(What::All, None),
                () = self.list_files.changed() => self.reloads.ask(What::Lists, None),
                ready = self.reloads.ready(&self.config, &self.spoof.device.name) => {
                    self.finish_reload(ready).await;
                }
                Some(ended) = workers.join_next() => {
                    ended??;
                    bail!("a worker ended by itself");
                }
                Some(event) = self.links.recv() => self.follow(event),
                () = ready(()), if self.kernel.is_behind() => self.catch_up(),
                Some(request) = self.host_requests.recv() => request.answer(),
                Some(asked) = self.asked.asked() => self.answer(asked),
                () = self.looks.due() => self.look_for_all()?,
            }
        }
    }

    /// Open connections go on; replies have to be steered on new devices as well.
    async fn drain(&mut self, signals: &mut Signals, workers: &mut Workers) -> Result<()> {
        let timeout = self.config.drain_timeout;
        tracing::info!("draining for up to {}", humantime::format_duration(timeout));
        self.drain.start();
        // Not by closing the listeners: the keeper holds them as well.
        self.direct.refuse_new()?;
        let deadline = Instant::now() + timeout.min(FOREVER);
        let mut stopped = false;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut working = true;
        while working || !self.direct.flows().is_empty() {
            tokio::select! {
                // More than once, as a listing may miss some.
                _ = ticks.tick() => if stopped { self.stop_now()? } else { self.tick()? },
                _ = timeout_at(deadline, stop(&mut signals.terminate, &mut signals.interrupt)),
                    if !stopped => {
                    stopped = true;
                    ticks.reset_immediately();
                }
                ended = workers.join_next(), if working => match ended {
                    Some(ended) => ended??,
                    None => working = false,
                },
                Ok(error) = &mut self.unkept => return Err(error),
                ready = self.reloads.ready(&self.config, &self.spoof.device.name) => {
                    self.finish_reload(ready).await;
                }
                Some(event) = self.links.recv() => self.follow(event),
                () = ready(()), if self.kernel.is_behind() => self.catch_up(),
                Some(request) = self.host_requests.recv() => request.answer(),
                Some(asked) = self.asked.asked() => self.answer(asked),
                () = self.looks.due() => self.look_for_all()?,
            }
        }
        if stopped {
            // The resets are on their way to the applications, and need the programs to get there.
            sleep(LAST_PACKETS).await;
        }
        Ok(())
    }

    /// Another daemon has all that is shared. What is this one's alone goes on to its end.
    async fn leave(self, mut signals: Signals, mut workers: Workers) -> Result<()> {
        let Self {
            asked,
            lock,
            held,
            drain,
            connections,
            heart,
            lists,
            looks,
            mut host_requests,
            ..
        } = self;
        // Direct connections are the other one's to look at.
        drop(looks);
        // The other one has its own: should it die, nobody is to be let in for this one's sake.
        drop(heart);
        tracing::info!("replaced by another daemon: connections that go through this one go on");
        // Its file goes before the other one makes its own, which waits for the lock.
        drop(asked);
        drop((lock, held));
        drain.leave();
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                // Nobody can ask this one any more.
                _ = ticks.tick() => {
                    connections.end(|open| lists.admission.ends(&open.into()));
                }
                () = stop(&mut signals.terminate, &mut signals.interrupt) => {
                    drain.stop_now();
                    connections.end(|_| true);
                }
                ended = workers.join_next() => match ended {
                    Some(ended) => ended??,
                    None => break,
                },
                Some(request) = host_requests.recv() => request.answer(),
            }
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// With a device that the start has left for later.
    fn catch_up(&mut self) {
        self.kernel.catch_up();
        self.tell_changes();
    }

    fn follow(&mut self, event: LinkEvent) {
        self.kernel.follow(event, &self.spoof.device);
        self.tell_changes();
    }

    pub(super) fn tell_changes(&mut self) {
        let changes = self.kernel.changes();
        if let Some(held) = &mut self.held {
            continuity::tell(held, changes);
        }
    }

    /// Resets what is still open, on both sides.
    fn stop_now(&mut self) -> Result<()> {
        // First, so that none is listed behind our back.
        self.drain.stop_now();
        self.end(|_| true)?;
        self.tick()
    }

    /// Resets the open connections of either path that `wanted` picks, on both sides; returns how
    /// many there were.
    fn end(&mut self, wanted: impl Fn(&Open<'_>) -> bool) -> Result<usize> {
        let relayed = self
            .connections
            .end(|connection| wanted(&connection.into()));
        Ok(relayed + self.direct.end(&self.names, wanted)?)
    }

    fn tick(&mut self) -> Result<()> {
        // What has ended by now is heard of before its service is forgotten.
        let open = self.open_of_former_services();
        self.look()?;
        self.forget_former_services(open)?;
        if mem::take(&mut self.lists.have_changed) {
            self.end_listed_denied()?;
        }
        self.lists.keep_changes();
        self.looks.tidy(&self.counting)
    }

    pub(super) fn look(&mut self) -> Result<()> {
        self.heart.is_there();
        self.direct
            .tick(&self.names, &mut self.kernel, &self.telemetry)?;
        let counters = self.counters.read().collect();
        let withheld = self.withheld.look(std::time::Instant::now(), &counters);
        if withheld > 0 {
            self.telemetry.withheld(withheld);
        }
        Ok(())
    }

    /// For those who wait to hear which direct connections have ended.
    fn look_for_all(&mut self) -> Result<()> {
        self.looks.gather();
        let began = Instant::now();
        self.look()?;
        self.looks.done(began.elapsed());
        Ok(())
    }

    /// Counts what is open for those that there are limits for by now.
    pub(super) fn count_those_there(&mut self) -> Result<()> {
        for connection in self.connections.iter() {
            if let Some(place) = &connection.place {
                place.count();
            }
        }
        self.datagrams.count(&self.config);
        self.look()
    }

    /// Resets the open connections of clients that are denied by now; returns how many there were.
    pub(super) fn end_denied(&mut self) -> Result<usize> {
        self.lists.have_changed = true;
        self.end_listed_denied()
    }

    fn end_listed_denied(&mut self) -> Result<usize> {
        let admission = self.lists.admission.clone();
        self.end_of_both(|open| admission.ends(open))
    }

    /// Resets what a service's balancers have open that may not connect any more; returns how many there were.
    pub(super) fn end_unlisted(&mut self, service: u32) -> Result<usize> {
        let admission = self.lists.admission.clone();
        self.end_of_both(|open| {
            open.service_id == service && !admission.allows(service, open.balancer)
        })
    }

    /// Of connections and of flows of datagrams.
    fn end_of_both(&mut self, wanted: impl Fn(&Open<'_>) -> bool) -> Result<usize> {
        let datagrams = self.datagrams.deny(&self.names, &wanted)?;
        Ok(datagrams + self.end(wanted)?)
    }
}

/// Between two looks after direct connections, and two signs of life: nobody new gets in two seconds
/// after the last one.
const TICK: Duration = Duration::from_millis(500);

/// A packet's way through the host takes microseconds, unless the machine is very busy.
const LAST_PACKETS: Duration = Duration::from_millis(50);

/// As long as the clock can count to.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Does nothing when systemd didn't start us.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("telling systemd: {error}");
    }
}
