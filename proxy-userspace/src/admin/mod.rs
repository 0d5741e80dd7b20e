//! The control socket: one request, one line of JSON back.
//!
//! It lies in a directory that only root can enter; the lock beside it keeps a second daemon of
//! the same name away.

mod connections;
mod instances;
mod lock;
mod socket;
mod status;

pub use connections::{ConnectionStatus, HeaderStatus, Table};
pub use instances::{forget, known};
pub use lock::Lock;
pub use socket::{Asked, Listener, Request, ask};
pub use status::{Limits, PathStatus, ReasonStatus, Reloaded, ServiceStatus, Status};

use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/truepeer";

/// In the directory that [`Lock`] makes for the daemon's user alone.
pub fn path(instance: &str, extension: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{instance}.{extension}"))
}
