//! The control socket: one request, one line of JSON back.
//!
//! There are two: one for who may look, and one for who may change something. The lock beside them keeps
//! a second daemon of the same name away.

mod connections;
mod instances;
mod lock;
mod socket;
mod status;

pub use connections::{ConnectionStatus, DatagramCounts, HeaderStatus, Table};
pub use instances::{forget, known, services_beside};
pub use lock::{Lock, TakeOver};
pub use socket::{Asked, Listener, Lists, Reply, Request, ask, ask_if_running, sockets};
pub use status::{
    Clients, GuardStatus, LastReload, Moved, PathStatus, ReasonStatus, Reloaded, ServiceStatus,
    Status, TotalLimits,
};

use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/truepeer";

/// In the directory that [`Lock`] makes, where nobody but the daemon's user may put something.
pub fn path(instance: &str, extension: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{instance}.{extension}"))
}
