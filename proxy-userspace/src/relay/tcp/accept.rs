//! Accepting, within the limits, until the drain begins.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{Shutdown, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, mpsc::UnboundedReceiver, oneshot, watch},
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

/// What becomes of a worker's listeners while it serves.
#[derive(Debug)]
pub enum Change {
    Listen(Listening),
    /// Who serves what is accepted at an address from here on.
    Serve(SocketAddr, Arc<Service>),
    /// Open connections go on. It is told when nothing listens there any more.
    Close(SocketAddr, oneshot::Sender<()>),
}

/// A listener, and what it is for.
#[derive(Debug)]
pub struct Listening {
    pub service: Arc<Service>,
    /// Where balancers connect to, wherever the socket itself is.
    pub at: SocketAddr,
    pub socket: std::net::TcpListener,
}

/// The listeners of one thread.
pub struct Listeners {
    shared: Arc<Shared>,
    list: Arc<List>,
    draining: Draining,
    /// Who serves at an address; none once it is to be closed.
    services: HashMap<SocketAddr, watch::Sender<Option<Arc<Service>>>>,
    serving: JoinSet<()>,
}

impl Listeners {
    pub fn new(shared: Arc<Shared>, draining: Draining) -> Self {
        Self {
            list: shared.connections.list(),
            shared,
            draining,
            services: HashMap::new(),
            serving: JoinSet::new(),
        }
    }

    /// Has to run in a `LocalSet`.
    pub fn listen(&mut self, listening: Listening) -> io::Result<()> {
        let Listening {
            service,
            at,
            socket,
        } = listening;
        let listener = TcpListener::from_std(socket)?;
        let own = listener.local_addr()?;
        let services = self.services.entry(at);
        let services = services.or_insert_with(|| watch::Sender::new(Some(service.clone())));
        let worker = Worker {
            services: services.subscribe(),
            elsewhere: (own != at).then_some(own),
            at: Rc::new(At {
                service,
                shared: self.shared.clone(),
                list: self.list.clone(),
                draining: self.draining.clone(),
                opening: Rc::default(),
            }),
            open: JoinSet::new(),
        };
        self.serving.spawn_local(worker.serve(listener));
        Ok(())
    }

    /// Serves them, and those that changes bring, until the drain is over.
    pub async fn serve(mut self, mut changes: UnboundedReceiver<Change>) {
        let mut draining = self.draining.clone();
        loop {
            tokio::select! {
                () = draining.started() => break,
                Some(change) = changes.recv() => self.change(change),
                // Only empties the set of those that ended.
                Some(_) = self.serving.join_next() => {}
            }
        }
        self.serving.join_all().await;
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Listen(listening) => {
                let name = listening.service.name.clone();
                if let Err(error) = self.listen(listening) {
                    tracing::error!(service = name, "a listener is lost: {error}");
                }
            }
            Change::Serve(address, service) => {
                if let Some(services) = self.services.get(&address) {
                    services.send_replace(Some(service));
                }
            }
            Change::Close(address, closed) => {
                let services = self.services.remove(&address);
                task::spawn_local(async move {
                    if let Some(services) = services {
                        services.send_replace(None);
                        services.closed().await;
                    }
                    // Whoever asked may be stopping.
                    let _ = closed.send(());
                });
            }
        }
    }
}

/// Where a connection is: of which service, at which worker.
#[derive(Clone)]
pub struct At {
    pub service: Arc<Service>,
    pub shared: Arc<Shared>,
    pub list: Arc<List>,
    pub draining: Draining,
    /// Of all services that its listener has had.
    pub opening: Rc<Opening>,
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
    services: watch::Receiver<Option<Arc<Service>>>,
    /// Where its socket is, if not where balancers connect to: nobody has any business there.
    elsewhere: Option<SocketAddr>,
    at: Rc<At>,
    /// Of those that are opening as well.
    open: JoinSet<()>,
}

impl Worker {
    async fn serve(mut self, listener: TcpListener) {
        let mut draining = self.at.draining.clone();
        let mut services = self.services.clone();
        let is_to_close = tokio::select! {
            () = draining.started() => false,
            Ok(_) = services.wait_for(Option::is_none) => true,
            () = self.accept_all(&listener) => false,
        };
        self.accept_queued(&listener);
        if is_to_close {
            // The keeper holds it as well.
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        }
        drop(listener);
        let Self {
            at,
            mut open,
            services: known,
            ..
        } = self;
        // Whoever closes it waits until nobody has these.
        drop((services, known));
        tokio::select! {
            () = draining.stopped() => at.opening.end_all(),
            () = async { while open.join_next().await.is_some() {} } => {}
        }
        while open.join_next().await.is_some() {}
    }

    /// Has connections from here on served by the one that the listener is now for.
    fn follow(&mut self) {
        if !self.services.has_changed().unwrap_or(false) {
            return;
        }
        let service = self.services.borrow_and_update().clone();
        if let Some(service) = service {
            let at = At::clone(&self.at);
            self.at = Rc::new(At { service, ..at });
        }
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
    fn accept_queued(&mut self, listener: &TcpListener) {
        while let Ok((stream, balancer)) = accept_now(listener)
            && let Ok(slot) = self.at.shared.slots.clone().try_acquire_owned()
        {
            self.spawn(stream, balancer, slot);
        }
    }

    fn spawn(&mut self, stream: TcpStream, balancer: SocketAddr, slot: OwnedSemaphorePermit) {
        self.follow();
        let At {
            service, shared, ..
        } = &*self.at;
        let balancer = Balancer(canonical(balancer));
        let is_stray = self.elsewhere.is_some_and(|own| is_at(&stream, own));
        // The programs may have let it in for another service, by another list, or to what listened there then.
        if is_stray || !shared.admission.allows(service, balancer) {
            // A reset, as for whoever comes now.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        let mut unfinished = Unfinished::new(self.at.clone(), balancer, slot);
        let task = self.open.spawn_local(async move {
            let end = connection::run(&stream, &unfinished.balancer, &unfinished.at).await;
            drop(stream);
            unfinished.end = end;
            drop(unfinished);
        });
        self.at.opening.enter(task);
    }
}

fn is_at(stream: &TcpStream, own: SocketAddr) -> bool {
    stream.local_addr().is_ok_and(|at| canonical(at) == own)
}

fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, balancer) = SockRef::from(listener).accept()?;
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
