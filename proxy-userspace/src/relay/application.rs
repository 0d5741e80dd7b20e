//! An application, which may come to this host and leave it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::Target;

/// Where an application is, and how its replies come back.
#[derive(Debug)]
pub struct Application {
    pub target: Target,
    /// What it answers from while it is on this host.
    pub steer: SocketAddr,
    is_here: AtomicBool,
}

/// The way of a connection to an application.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where spoofed connections go: an address that steers the replies back.
    pub steered: SocketAddr,
    /// Where the application listens.
    pub target: Target,
}

impl Application {
    pub const fn new(target: Target, steer: SocketAddr, is_here: bool) -> Self {
        Self {
            target,
            steer,
            is_here: AtomicBool::new(is_here),
        }
    }

    /// Whether its address is this host's.
    pub fn is_here(&self) -> bool {
        self.is_here.load(Relaxed)
    }

    pub fn set_here(&self, is_here: bool) {
        self.is_here.store(is_here, Relaxed);
    }

    /// Of a connection that is made now.
    pub fn route(&self) -> Route {
        let target = self.target;
        let steered = if self.is_here() { self.steer } else { target.0 };
        Route { steered, target }
    }
}

impl Route {
    /// Whether the application is on this host. One elsewhere is connected to by its own address.
    pub fn is_steered(&self) -> bool {
        self.steered != self.target.0
    }
}
