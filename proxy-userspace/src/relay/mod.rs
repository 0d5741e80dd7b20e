//! A connection's life: header, client, upstream, both halves to their end.
//!
//! A worker is one thread in the spoof namespace and shares nothing on its way with the others.
//! The relay knows neither eBPF nor configuration; what happens it tells a [`Report`].

mod accept;
mod addr;
mod client;
mod connection;
mod direction;
mod open;
mod policy;
mod pump;
mod read_header;
mod report;
mod splice;
#[cfg(test)]
mod tests;
mod upstream;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{Mutex, Semaphore};

pub use accept::serve;
pub use addr::{Balancer, Client, Target};
pub use client::{Martian, OwnAddresses, check as check_client};
pub use open::{Connection, Connections, Moved};
pub use policy::{ClientPolicy, Fallback, OnLocal};
pub use report::{End, Report};
pub use upstream::{HostSocketRequest, HostSockets, Neighbours, Spoofed};

use crate::header::Policy;

/// What the relay has to know of a service.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    pub policy: Policy,
    pub clients: ClientPolicy,
    pub header_timeout: Duration,
    pub connect_timeout: Duration,
    pub route4: Option<Route>,
    pub route6: Option<Route>,
}

/// The way to an application.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where spoofed connections go: an address that steers the replies back.
    pub steered: SocketAddr,
    /// Where the application listens.
    pub target: Target,
}

impl Route {
    /// Whether the application is on this host. One elsewhere is connected to by its own address.
    pub fn is_steered(&self) -> bool {
        self.steered != self.target.0
    }
}

impl Service {
    /// The ways for a client's family and for the other one.
    fn routes(&self, client: &Client) -> (Option<Route>, Option<Route>) {
        match client.0 {
            SocketAddr::V4(_) => (self.route4, self.route6),
            SocketAddr::V6(_) => (self.route6, self.route4),
        }
    }
}

/// What all workers have in common.
pub struct Shared {
    pub report: Arc<dyn Report>,
    pub own: Arc<dyn OwnAddresses>,
    pub host_sockets: HostSockets,
    /// Lists those that are open.
    pub connections: Connections,
    /// One permit per connection that may be open.
    pub slots: Arc<Semaphore>,
    /// Whose next connection waits until there may be one more.
    pub turn: Mutex<()>,
    /// Those that don't come by here, if there are any.
    pub neighbours: Option<Arc<dyn Neighbours>>,
}
