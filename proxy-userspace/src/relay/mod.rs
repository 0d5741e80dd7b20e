//! What the daemon carries itself: connections of TCP, and the datagrams of UDP that the programs leave to it.
//!
//! The relay knows neither eBPF nor configuration; what happens it tells a [`Report`].

mod addr;
mod application;
mod client;
mod open;
mod places;
mod policy;
mod report;
pub mod tcp;
pub mod udp;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{Mutex, Semaphore};

pub use addr::{Balancer, Client, Target};
pub use application::{Application, Route};
pub use client::{Admission, Martian, Own, OwnAddresses, check as check_client};
pub use open::{Connection, Connections, Moved};
pub use places::{Counted, Exceeded, Of as PlaceOf, Place, Places};
pub use policy::{ClientPolicy, Fallback, OnLocal};
pub use report::{End, Report};
use tcp::{HostSockets, Neighbours};

use crate::header::Policy;

/// What the relay has to know of a service.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    /// What its entries in the lists are filed under.
    pub id: u32,
    pub policy: Policy,
    pub clients: ClientPolicy,
    pub header_timeout: Duration,
    pub connect_timeout: Duration,
    /// For IPv4 clients, and for IPv6 clients.
    pub applications: [Option<Arc<Application>>; 2],
}

impl Service {
    /// The ways for a client's family and for the other one.
    fn routes(&self, client: &Client) -> (Option<Route>, Option<Route>) {
        let [v4, v6] = self.applications.each_ref();
        let [v4, v6] = [v4, v6].map(|it| it.as_deref().map(Application::route));
        match client.0 {
            SocketAddr::V4(_) => (v4, v6),
            SocketAddr::V6(_) => (v6, v4),
        }
    }
}

/// What all workers have in common.
pub struct Shared {
    pub report: Arc<dyn Report>,
    pub own: Arc<dyn OwnAddresses>,
    pub admission: Arc<dyn Admission>,
    pub places: Arc<dyn Places>,
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
