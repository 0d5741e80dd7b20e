//! Accepting, within the limits, until the drain begins.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    task::JoinSet,
    time::sleep,
};

use super::{Balancer, End, Service, Shared, addr::canonical, connection, open::List};
use crate::drain::Draining;

/// Serves these listeners until the drain is over. Has to run in a `LocalSet`.
pub async fn serve(
    listeners: Vec<(Arc<Service>, TcpListener)>,
    shared: Arc<Shared>,
    draining: Draining,
) {
    let list = shared.connections.list();
    let each = listeners.into_iter().map(|(service, listener)| {
        let worker = Worker {
            service,
            shared: shared.clone(),
            list: list.clone(),
            draining: draining.clone(),
            open: JoinSet::new(),
        };
        worker.serve(listener)
    });
    join_all(each).await;
}

struct Worker {
    service: Arc<Service>,
    shared: Arc<Shared>,
    list: Arc<List>,
    draining: Draining,
    open: JoinSet<()>,
}

impl Worker {
    async fn serve(mut self, listener: TcpListener) {
        let mut draining = self.draining.clone();
        tokio::select! {
            () = draining.started() => {}
            () = self.accept_all(&listener) => {}
        }
        self.accept_queued(listener);
        tokio::select! {
            () = draining.stopped() => self.open.abort_all(),
            () = async { while self.open.join_next().await.is_some() {} } => {}
        }
        while self.open.join_next().await.is_some() {}
    }

    async fn accept_all(&mut self, listener: &TcpListener) {
        let mut backoff = Backoff::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Only empties the set of those that ended.
                Some(_) = self.open.join_next() => continue,
            };
            match accepted {
                Ok((stream, balancer)) => {
                    backoff = Backoff::default();
                    // With no slot free this one waits, and those behind it in the backlog.
                    let slot = self.shared.slots.clone().acquire_owned().await;
                    let Ok(slot) = slot else { return };
                    self.spawn(stream, balancer, slot);
                }
                Err(error) => {
                    self.shared.report.accept_failed(&self.service, &error);
                    sleep(backoff.grow()).await;
                }
            }
        }
    }

    /// Those whose handshake is over would be reset with the listener.
    fn accept_queued(&mut self, listener: TcpListener) {
        while let Ok((stream, balancer)) = accept_now(&listener)
            && let Ok(slot) = self.shared.slots.clone().try_acquire_owned()
        {
            self.spawn(stream, balancer, slot);
        }
    }

    fn spawn(&mut self, stream: TcpStream, balancer: SocketAddr, slot: OwnedSemaphorePermit) {
        let (service, shared) = (self.service.clone(), self.shared.clone());
        let list = self.list.clone();
        let balancer = Balancer(canonical(balancer));
        self.open.spawn_local(async move {
            let unfinished = Unfinished::new(&service, &shared, balancer);
            let end = connection::run(stream, balancer, &service, &shared, &list).await;
            unfinished.finish(&end);
            drop(slot);
        });
    }
}

fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, balancer) = socket2::SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let balancer = balancer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(socket.into())?, balancer))
}

/// Tells that a connection ended, also when its task is aborted.
struct Unfinished<'a> {
    service: &'a Service,
    shared: &'a Shared,
    balancer: Balancer,
    told: bool,
}

impl<'a> Unfinished<'a> {
    fn new(service: &'a Service, shared: &'a Shared, balancer: Balancer) -> Self {
        shared.report.accepted(service, balancer);
        Self {
            service,
            shared,
            balancer,
            told: false,
        }
    }

    fn finish(mut self, end: &End) {
        self.told = true;
        self.shared.report.ended(self.service, self.balancer, end);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.shared
                .report
                .ended(self.service, self.balancer, &End::Stopped);
        }
    }
}

/// Errors such as EMFILE stay for a while: asking again at once would only burn the CPU.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl Backoff {
    const LONGEST: Duration = Duration::from_secs(1);

    fn grow(&mut self) -> Duration {
        let now = self.0;
        self.0 = Self::LONGEST.min(now * 2);
        now
    }
}
