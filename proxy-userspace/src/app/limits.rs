//! Limits of each balancer and each client, and looks at direct connections when one is reached.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Result;
use futures_util::future::BoxFuture;
use proxy_common::{claim::Answer, limits::Limits};
use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
    time::{Instant, sleep_until},
};

use crate::{
    config::Config,
    kernel::Tallies,
    relay::{Counted, Exceeded, PlaceOf, Places},
};

/// Who counts connections, for both paths.
pub struct Counting {
    tallies: Tallies,
    /// By service, of those that have any.
    limits: RwLock<BTreeMap<u32, Limits>>,
    looks: Sender<Look>,
}

/// Somebody waits for a look.
type Look = oneshot::Sender<()>;

impl Counting {
    pub fn new(tallies: Tallies, config: &Config) -> Result<(Arc<Self>, Looks)> {
        let (looks, asked) = channel(Looks::MOST);
        let counting = Self {
            tallies,
            limits: RwLock::default(),
            looks,
        };
        counting.limit(config)?;
        Ok((Arc::new(counting), Looks::new(asked)))
    }

    /// The services' limits are these from here on. What is there counts once it is looked at.
    pub fn limit(&self, config: &Config) -> Result<()> {
        let services = config.services.iter();
        let limited = services.filter(|service| service.limits.is_set());
        let limits: BTreeMap<_, _> = limited.map(|it| (it.id, it.limits)).collect();
        self.tallies.limit(&limits)?;
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        Ok(())
    }

    /// Forgets what says nothing; whether anything is left.
    fn tidy(&self) -> Result<bool> {
        Ok(self.tallies.tidy()? > 0)
    }

    pub fn any_is_limited(&self) -> bool {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        !limits.is_empty()
    }

    fn parties(&self, service: u32) -> u32 {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        limits.get(&service).map_or(0, Limits::parties)
    }
}

impl Places for Counting {
    fn claim(&self, of: &PlaceOf) -> Result<Counted, Exceeded> {
        if self.parties(of.service) == 0 {
            return Ok(Counted::default());
        }
        let claimed = self.tallies.claim(of.service, [of.balancer, of.client]);
        let (answer, counted) = claimed.unwrap_or_else(|error| {
            tracing::error!("a connection isn't counted: {error:#}");
            (Answer::Done, 0)
        });
        match answer {
            Answer::Done | Answer::Busy => Ok(Counted(counted)),
            Answer::NoRoom => Err(Exceeded::Uncounted),
            Answer::BalancerFull => Err(Exceeded::BalancerMaxconn),
            Answer::ClientFull => Err(Exceeded::ClientMaxconn),
            Answer::BalancerTooFast => Err(Exceeded::BalancerMaxconnrate),
            Answer::ClientTooFast => Err(Exceeded::ClientMaxconnrate),
        }
    }

    fn lacks(&self, of: &PlaceOf, Counted(counted): Counted) -> bool {
        self.parties(of.service) & !counted != 0
    }

    fn count(&self, of: &PlaceOf, Counted(counted): Counted) -> Counted {
        let parties = [of.balancer, of.client];
        let by_now = self.tallies.count(of.service, parties, counted);
        Counted(by_now.unwrap_or_else(|error| {
            tracing::error!("a connection isn't counted: {error:#}");
            counted
        }))
    }

    fn release(&self, of: &PlaceOf, Counted(counted): Counted) {
        let parties = [of.balancer, of.client];
        if let Err(error) = self.tallies.release(of.service, parties, counted) {
            tracing::error!("a connection that is over is counted: {error:#}");
        }
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        let (look, done) = oneshot::channel();
        let is_asked = self.looks.try_send(look).is_ok();
        Box::pin(async move {
            if is_asked {
                // An error: nobody looks any more.
                let _ = done.await;
            }
        })
    }
}

/// Looks that somebody waits for. However many there are, they take a tenth of a CPU at most.
pub struct Looks {
    asked: Receiver<Look>,
    waiting: Vec<Look>,
    next: Instant,
    /// Whether anything may be counted.
    counts: bool,
}

impl Looks {
    /// So many wait at a time, each with a connection; others are refused at once.
    const MOST: usize = 256;

    fn new(asked: Receiver<Look>) -> Self {
        Self {
            asked,
            waiting: Vec::new(),
            next: Instant::now(),
            // A daemon before this one may have.
            counts: true,
        }
    }

    /// Until one is due. Can be cancelled.
    pub async fn due(&mut self) {
        if self.waiting.is_empty() {
            match self.asked.recv().await {
                Some(look) => self.waiting.push(look),
                None => return pending().await,
            }
        }
        sleep_until(self.next).await;
    }

    /// One has been done, and took so long.
    pub fn done(&mut self, took: Duration) {
        const REST: u32 = 9;
        self.next = Instant::now() + took * REST;
        for look in self.waiting.drain(..) {
            // The connection may be over.
            let _ = look.send(());
        }
    }

    /// Whoever has asked by now sees what the next one does.
    pub fn gather(&mut self) {
        while let Ok(look) = self.asked.try_recv() {
            self.waiting.push(look);
        }
    }

    /// Has tallies forgotten that say nothing, where there may be any.
    pub fn tidy(&mut self, counting: &Counting) -> Result<()> {
        if self.counts || counting.any_is_limited() {
            self.counts = counting.tidy()?;
        }
        Ok(())
    }
}
