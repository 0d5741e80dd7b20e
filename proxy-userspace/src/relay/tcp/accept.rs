//! Accepting, within the limits, until the drain begins.

use std::{
    cell::RefCell, collections::HashMap, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    task::{self, AbortHandle, JoinSet},
    time::sleep,
};

use super::connection;
use crate::{
    drain::Draining,
    relay::{Balancer, End, Service, Shared, addr::canonical, open::List},
};

/// Between two looks whether neighbours have left room.
const NEIGHBOURS: Duration = Duration::from_millis(20);

/// Errors such as EMFILE stay for a while: asking again at once would only burn the CPU.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Serves these listeners until the drain is over. Has to run in a `LocalSet`.
pub async fn serve(
    listeners: Vec<(Arc<Service>, TcpListener)>,
    shared: Arc<Shared>,
    draining: Draining,
) {
    let list = shared.connections.list();
    let each = listeners.into_iter().map(|(service, listener)| {
        let (shared, list) = (shared.clone(), list.clone());
        let worker = Worker {
            at: Rc::new(At {
                service,
                shared,
                list,
                draining: draining.clone(),
                opening: Opening::default(),
            }),
            open: JoinSet::new(),
        };
        worker.serve(listener)
    });
    join_all(each).await;
}

/// Where a connection is: of which service, at which worker.
pub struct At {
    pub service: Arc<Service>,
    pub shared: Arc<Shared>,
    pub list: Arc<List>,
    pub draining: Draining,
    pub opening: Opening,
}

/// Connections without a client as yet. There is nothing to pick them by: the drain ends them all.
#[derive(Default)]
pub struct Opening(RefCell<HashMap<task::Id, AbortHandle>>);

impl Opening {
    fn enter(&self, task: AbortHandle) {
        self.0.borrow_mut().insert(task.id(), task);
    }

    /// The calling task's, which is opening no more.
    pub fn leave(&self) -> Option<AbortHandle> {
        self.0.borrow_mut().remove(&task::id())
    }

    fn end_all(&self) {
        for task in self.0.take().values() {
            task.abort();
        }
    }
}

struct Worker {
    at: Rc<At>,
    /// Of those that are opening as well.
    open: JoinSet<()>,
}

impl Worker {
    async fn serve(mut self, listener: TcpListener) {
        let mut draining = self.at.draining.clone();
        tokio::select! {
            () = draining.started() => {}
            () = self.accept_all(&listener) => {}
        }
        self.accept_queued(listener);
        tokio::select! {
            () = draining.stopped() => self.at.opening.end_all(),
            () = async { while self.open.join_next().await.is_some() {} } => {}
        }
        while self.open.join_next().await.is_some() {}
    }

    async fn accept_all(&mut self, listener: &TcpListener) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Only empties the set of those that ended.
                Some(_) = self.open.join_next() => continue,
            };
            match accepted {
                Ok((stream, balancer)) => {
                    pause = SHORTEST_PAUSE;
                    // With no slot free this one waits, and those behind it in the backlog. One at a time:
                    // a slot that is held without being used counts like a connection.
                    let turn = self.at.shared.turn.lock().await;
                    let slot = self.at.shared.slots.clone().acquire_owned().await;
                    let Ok(slot) = slot else { return };
                    self.room().await;
                    drop(turn);
                    self.spawn(stream, balancer, slot);
                }
                Err(error) => {
                    let At {
                        service, shared, ..
                    } = &*self.at;
                    shared.report.accept_failed(service, &error);
                    sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Those that don't come by here may have taken it all, and don't say when they end.
    async fn room(&self) {
        let neighbours = self.at.shared.neighbours.as_ref();
        while neighbours.is_some_and(|neighbours| !neighbours.leave_room()) {
            sleep(NEIGHBOURS).await;
        }
    }

    /// Those whose handshake is over would be reset with the listener.
    fn accept_queued(&mut self, listener: TcpListener) {
        while let Ok((stream, balancer)) = accept_now(&listener)
            && let Ok(slot) = self.at.shared.slots.clone().try_acquire_owned()
        {
            self.spawn(stream, balancer, slot);
        }
    }

    fn spawn(&mut self, stream: TcpStream, balancer: SocketAddr, slot: OwnedSemaphorePermit) {
        let mut unfinished = Unfinished::new(self.at.clone(), Balancer(canonical(balancer)), slot);
        let task = self.open.spawn_local(async move {
            let end = connection::run(&stream, &unfinished.balancer, &unfinished.at).await;
            drop(stream);
            unfinished.end = end;
            drop(unfinished);
        });
        self.at.opening.enter(task);
    }
}

fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, balancer) = socket2::SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let balancer = balancer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(socket.into())?, balancer))
}

/// Tells that a connection ended and gives its slot back, also when its task is aborted.
struct Unfinished {
    at: Rc<At>,
    balancer: Balancer,
    /// How, if it ends now.
    end: End,
}

impl Unfinished {
    fn new(at: Rc<At>, balancer: Balancer, slot: OwnedSemaphorePermit) -> Self {
        at.shared.report.accepted(&at.service, balancer);
        // It would hold a pointer that is here already.
        slot.forget();
        Self {
            at,
            balancer,
            end: End::Stopped,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let At {
            service, shared, ..
        } = &*self.at;
        shared.report.ended(service, self.balancer, &self.end);
        shared.slots.add_permits(1);
    }
}
