//! Capabilities: what each is for, and letting go of them. They belong to threads, not to the
//! process: a new thread inherits those of the thread that starts it.

use std::fmt;

use anyhow::{Context, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tokio::runtime::Runtime;

/// A capability that truepeer needs, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    set: CapabilitySet,
    pub name: &'static str,
    pub what_for: &'static str,
}

/// Without any of these there is no start. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON.
pub const NEEDED: [Needed; 4] = [
    Needed {
        set: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        what_for: "to make the spoof namespace and to load eBPF programs",
    },
    Needed {
        set: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        what_for: "to make the device and to attach eBPF programs",
    },
    Needed {
        set: CapabilitySet::NET_RAW,
        name: "CAP_NET_RAW",
        what_for: "to connect from clients' addresses",
    },
    Needed {
        set: CapabilitySet::NET_BIND_SERVICE,
        name: "CAP_NET_BIND_SERVICE",
        what_for: "to listen at, and connect from, ports below 1024",
    },
];

/// What a thread of the daemon does from here on.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Sets everything up.
    Start,
    /// Stays on the host: attaches to new devices, changes maps, listens for new services.
    Control,
    /// Looks after the host for it.
    Watcher,
    /// Connects from clients' addresses, in the spoof namespace.
    Worker,
    /// Writes what others have to say.
    Writer,
    /// Outlives the daemon: ends what nobody steers any more.
    Keeper,
}

impl Role {
    fn needs(self) -> CapabilitySet {
        match self {
            // As far as they are there: it empties the bounding set, and gives a socket to a group.
            Self::Start => needed() | CapabilitySet::SETPCAP | CapabilitySet::CHOWN,
            Self::Writer => CapabilitySet::empty(),
            Self::Control => CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE,
            Self::Watcher | Self::Keeper => CapabilitySet::NET_ADMIN,
            Self::Worker => CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE,
        }
    }
}

fn needed() -> CapabilitySet {
    let sets = NEEDED.iter().map(|needed| needed.set);
    sets.fold(CapabilitySet::empty(), CapabilitySet::union)
}

/// What the calling thread should have at start and hasn't.
pub fn missing() -> Result<Vec<Needed>> {
    let has = capabilities(None)
        .context("reading capabilities")?
        .effective;
    let missing = NEEDED
        .into_iter()
        .filter(|needed| !has.contains(needed.set));
    Ok(missing.collect())
}

/// For ever, and for all threads that the calling one starts: no program that it runs gets more.
pub fn no_new() -> Result<()> {
    set_no_new_privs(true).context("setting no_new_privs")
}

/// Gives up, in the calling thread, all that `role` has no use for. Nothing brings it back.
pub fn keep(role: Role) -> Result<()> {
    let needs = role.needs();
    keep_bound(needs);
    let kept = capabilities(None)?.permitted & needs;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).with_context(|| format!("giving up capabilities ({role:?})"))
}

/// The same for a thread of its own that waits for things: what it works with.
pub fn runtime(role: Role) -> Result<Runtime> {
    keep(role)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().context("a runtime")
}

/// Lets the programs that the calling thread runs have CAP_NET_ADMIN, whoever the user is. For a
/// thread that ends with them.
pub fn hand_on_net_admin() -> Result<()> {
    let net_admin = CapabilitySet::NET_ADMIN;
    let sets = CapabilitySets {
        inheritable: net_admin,
        ..capabilities(None)?
    };
    set_capabilities(None, sets)
        .and_then(|()| configure_capability_in_ambient_set(net_admin, true))
        .context("handing CAP_NET_ADMIN on")
}

/// As far as CAP_SETPCAP is there. Without it no_new_privs alone has to do: nothing that is run
/// gains what the bounding set allows.
fn keep_bound(needs: CapabilitySet) {
    let each = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    for capability in each.filter(|capability| !needs.contains(*capability)) {
        // The first that the kernel doesn't know is past the last one.
        if let Err(error) = remove_capability_from_bounding_set(capability) {
            tracing::trace!(%error, "end of the bounding set");
            break;
        }
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.what_for)
    }
}
