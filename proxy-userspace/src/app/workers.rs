//! The worker threads: each in the spoof namespace, with a runtime of its own.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::{JoinSet, LocalSet},
    time::sleep,
};

use super::listen::Listeners;
use crate::{
    drain::Draining,
    netns::{SpoofNs, TcpSockets},
    privileges::{self, Role},
    relay::{
        Shared,
        tcp::{self, Change},
    },
};

/// Between two looks whether all has arrived.
const PAUSE: Duration = Duration::from_millis(20);

/// Comes back when a worker has ended.
pub type Workers = JoinSet<Result<()>>;

/// Starts one worker for each of `listeners`, who hears of changes; all serve when this returns.
pub async fn start(
    listeners: Vec<Listeners>,
    spoof: &Arc<SpoofNs>,
    shared: &Arc<Shared>,
    draining: &Draining,
) -> Result<(Workers, Vec<UnboundedSender<Change>>)> {
    let mut workers = Workers::new();
    let mut started = Vec::new();
    let mut tell = Vec::new();
    let busy = listeners.into_iter().filter(|each| !each.is_empty());
    for (number, listeners) in busy.enumerate() {
        let (spoof, shared, draining) = (spoof.clone(), shared.clone(), draining.clone());
        let name = format!("worker-{number}");
        let (sender, changes) = unbounded_channel();
        tell.push(sender);
        let (serving, end) = on_thread(name, move |serves| {
            work((listeners, changes), &spoof, shared, draining, serves)
        })?;
        workers.spawn(end);
        started.push(serving);
    }
    for serving in started {
        if serving.await.is_err() {
            // It ended instead of serving, and says why.
            workers.join_next().await.context("no worker")???;
        }
    }
    Ok((workers, tell))
}

/// Starts a thread that says once when it serves; the other future comes back when it has ended.
pub fn on_thread(
    name: String,
    work: impl FnOnce(oneshot::Sender<()>) -> Result<()> + Send + 'static,
) -> Result<(
    oneshot::Receiver<()>,
    impl Future<Output = Result<()>> + Send,
)> {
    let (serves, serving) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let panicked = format!("thread {name} panicked");
    thread::Builder::new()
        .name(name)
        .spawn(move || {
            // Nobody waits any more when the daemon stops at once.
            let _ = ended.send(work(serves));
        })
        .context("starting a thread")?;
    Ok((serving, async move { end.await.context(panicked)? }))
}

fn work(
    (listeners, changes): (Listeners, UnboundedReceiver<Change>),
    spoof: &SpoofNs,
    shared: Arc<Shared>,
    draining: Draining,
    serves: oneshot::Sender<()>,
) -> Result<()> {
    spoof.enter()?;
    privileges::keep(Role::Worker)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a worker's runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let after = draining.clone();
        let mut serving = tcp::Listeners::new(shared, draining);
        for listening in listeners {
            serving.listen(listening)?;
        }
        let _ = serves.send(());
        serving.serve(changes).await;
        last_bytes(after).await;
        Ok(())
    })
}

/// Until the applications' hosts have all that was closed with bytes on the way. Without the daemon
/// nobody steers, and an application that reads slowly would never hear the rest.
async fn last_bytes(mut draining: Draining) {
    let is_last = !draining.is_replaced();
    tokio::select! {
        arrived = all_has_arrived(is_last) => if let Err(error) = arrived {
            tracing::warn!("leaving although last bytes may be on their way: {error:#}");
        },
        () = draining.stopped() => {}
    }
}

/// `is_last`: with this daemon goes what those before it still relay.
pub async fn all_has_arrived(is_last: bool) -> Result<()> {
    let mut sockets = TcpSockets::open()?;
    while sockets.any_is_closing()? || is_last && sockets.any_is_owned()? {
        sleep(PAUSE).await;
    }
    Ok(())
}
