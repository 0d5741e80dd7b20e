//! Datagrams that the kernel's programs leave to the daemon, one by one: those that come in pieces, or
//! with a header that they don't know, and replies that don't fit the way to the balancer in one piece.
//!
//! One thread in the spoof namespace has it all. What a balancer sends comes by a socket of the host's, and
//! goes on to the application by a raw one; replies come to one socket, whatever their addresses are, and
//! go on by the host's.

mod inbound;
mod outbound;
mod packet;
mod probe;
mod reverse_path;
mod socket;

use std::{
    cell::RefCell,
    collections::HashMap,
    future::pending,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use futures_util::future::BoxFuture;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::{JoinHandle, LocalSet, spawn_local},
};

use self::{packet::Injector, reverse_path::ReversePaths};
use super::{Balancer, Client, Service, Shared};
use crate::{drain::Draining, sys::readable};

pub use packet::Forwarder;
pub use probe::Probe;
pub use socket::{Catchers, Listener, listener};

/// Where headers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// v2 in front of each datagram.
    V2,
    /// v2 in front of the first datagram of a balancer's socket.
    V2First,
    /// Cloudflare's Simple Proxy Protocol, in front of each datagram and each reply.
    Spp,
}

/// A client's datagrams to an application, and their way back.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub balancer: Balancer,
    /// Where the balancer sends to.
    pub received_at: SocketAddr,
    pub client: Client,
    /// Where datagrams for the application go, which it answers from.
    pub aim: SocketAddr,
    /// Where the client has sent to, as an SPP header says.
    pub stated: SocketAddr,
    /// Whether the balancer speaks for itself.
    pub is_local: bool,
}

/// What the programs know too.
pub trait Flows: Send + Sync {
    /// Whether a route to the balancer goes by the host's device of this index.
    fn leads(&self, balancer: IpAddr, device: u32) -> BoxFuture<'_, bool>;
    /// One more datagram of so many bytes.
    fn note(&self, service: &Service, flow: &Flow, bytes: usize) -> io::Result<Noted>;
    /// The flow of one more reply of so many bytes.
    fn reply(&self, aim: SocketAddr, client: SocketAddr, bytes: usize) -> Option<Flow>;
    /// Whom this balancer's socket speaks for.
    fn first(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
    ) -> io::Result<Speaks>;
    /// The first header can't be read: the next one is to say.
    fn leave_undecided(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
    ) -> io::Result<()>;
    fn note_first(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
        client: Client,
    ) -> io::Result<()>;
}

/// What has become of a flow that was to be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    Yes,
    /// Another balancer speaks for its client.
    Taken,
    /// There are as many as there may be; the programs have counted that.
    Full,
    /// Its service takes no new clients.
    Drained,
}

/// Whom a balancer's socket speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    For(Client),
    /// The same. The one datagram with a header, which says so, may be yet to come: its pieces are waited for.
    InPieces(Client),
    /// A header has to say.
    Nobody,
    /// For somebody who was forgotten for others' sake.
    Forgotten,
}

/// A service's socket on the host.
#[derive(Debug)]
pub struct Receiver {
    pub service: Arc<Service>,
    pub framing: Framing,
    pub listener: Listener,
}

/// What becomes of the receivers while they are served.
#[derive(Debug)]
pub enum Change {
    Listen(Receiver),
    /// Whose the datagrams are that are received at an address from here on.
    Serve(SocketAddr, Arc<Service>, Framing),
    /// It is told when nothing listens there any more.
    Close(SocketAddr, oneshot::Sender<()>),
}

/// What all that is received has in common.
struct At {
    shared: Arc<Shared>,
    flows: Arc<dyn Flows>,
    reverse_paths: ReversePaths,
    injector: Injector,
    receivers: RefCell<Vec<Rc<Hearing>>>,
}

/// A receiver that hears.
struct Hearing {
    service: RefCell<(Arc<Service>, Framing)>,
    listener: AsyncFd<Listener>,
}

impl Hearing {
    fn at(&self) -> SocketAddr {
        self.listener.get_ref().at
    }
}

impl At {
    /// Those at an address before those at all of them, as the kernel's lookup has it.
    fn add(&self, receiver: Receiver) -> io::Result<Rc<Hearing>> {
        let hearing = Rc::new(Hearing {
            service: RefCell::new((receiver.service, receiver.framing)),
            listener: readable(receiver.listener)?,
        });
        let mut receivers = self.receivers.borrow_mut();
        receivers.push(hearing.clone());
        receivers.sort_by_key(|hearing| hearing.at().ip().is_unspecified());
        Ok(hearing)
    }
}

/// As large as a datagram gets.
const LARGEST: usize = 1 << 16;

/// Serves until the drain begins. The calling thread is in the spoof namespace.
pub async fn serve(
    receivers: Vec<Receiver>,
    mut changes: UnboundedReceiver<Change>,
    catchers: Catchers,
    forwarder: Forwarder,
    shared: Arc<Shared>,
    flows: Arc<dyn Flows>,
    mut draining: Draining,
) -> io::Result<()> {
    let at = Rc::new(At {
        shared,
        flows,
        reverse_paths: ReversePaths::default(),
        injector: Injector::new(forwarder)?,
        receivers: RefCell::default(),
    });
    let caught = catchers.into_async()?;
    let work = async {
        // A task each: who floods one takes no more than its turn.
        let mut inbound = Inbound::default();
        for receiver in receivers {
            inbound.listen(&at, receiver)?;
        }
        for caught in caught {
            spawn_local(outbound::serve(at.clone(), caught));
        }
        while let Some(change) = changes.recv().await {
            inbound.change(&at, change).await;
        }
        // Nobody changes anything any more.
        pending().await
    };
    let tasks = LocalSet::new();
    tokio::select! {
        ended = tasks.run_until(work) => ended,
        () = draining.started() => Ok(()),
    }
}

/// The tasks that receive from balancers, by address.
#[derive(Default)]
struct Inbound(HashMap<SocketAddr, JoinHandle<()>>);

impl Inbound {
    fn listen(&mut self, at: &Rc<At>, receiver: Receiver) -> io::Result<()> {
        let hearing = at.add(receiver)?;
        let address = hearing.at();
        let task = spawn_local(inbound::serve(at.clone(), hearing));
        self.0.insert(address, task);
        Ok(())
    }

    async fn change(&mut self, at: &Rc<At>, change: Change) {
        match change {
            Change::Listen(receiver) => {
                let name = receiver.service.name.clone();
                if let Err(error) = self.listen(at, receiver) {
                    tracing::error!(service = name, "a socket is lost: {error}");
                }
            }
            Change::Serve(address, service, framing) => {
                let receivers = at.receivers.borrow();
                let mut receivers = receivers.iter();
                if let Some(hearing) = receivers.find(|hearing| hearing.at() == address) {
                    hearing.service.replace((service, framing));
                }
            }
            Change::Close(address, closed) => {
                at.receivers
                    .borrow_mut()
                    .retain(|hearing| hearing.at() != address);
                if let Some(task) = self.0.remove(&address) {
                    task.abort();
                    // By the abort.
                    let _ = task.await;
                }
                // Whoever asked may be stopping.
                let _ = closed.send(());
            }
        }
    }
}
