//! What outlives the daemon: a small process that holds duplicates of its descriptors, so that no
//! connection depends on the daemon's life.
//!
//! When the daemon dies, the keeper waits a while for the next one and hands everything to it. If
//! nobody comes, it ends the applications' connections while the programs can still carry the resets
//! to the balancers, and then itself. It parses nothing but messages of its own user's processes, and
//! has CAP_NET_ADMIN alone.
//!
//! ```text
//! daemon ── hold, release, end ──▶ keeper ◀── take, hold, done ── the next daemon,
//!        ◀── replaced ───────────         ── given, busy, yours ─▶  which starts its own keeper
//! ```

mod channel;
mod ending;
mod held;
mod item;
mod kind;
mod listener;
mod message;
mod process;
mod take;
#[cfg(test)]
mod tests;

pub use ending::end_connections;
pub use held::{Event, Held};
pub use item::{Item, Items};
pub use kind::Kind;
pub use message::Orders;
pub use process::main;
pub use take::{Taken, is_there, take};

use std::{path::PathBuf, time::Duration};

/// The subcommand that it runs as.
const COMMAND: &str = "keeper";

/// How long the other side may take to read or to answer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a taker stops the clock: loading the programs takes a second or two.
const LONGEST_TAKE_OVER: Duration = Duration::from_secs(30);

/// However many takers die, nobody's connection hangs longer than this without a daemon, unless the
/// grace is longer.
const LONGEST_ALONE: Duration = Duration::from_secs(60);

fn path(instance: &str) -> PathBuf {
    crate::admin::path(instance, "keeper.sock")
}
