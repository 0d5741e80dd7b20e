//! A small network in three throw-away namespaces, with real senders and apps to put into it.
//!
//! ```text
//!   client                      edge, the balancer                host, truepeer and the apps
//!   203.0.113.9 .10 .11 ────── 203.0.113.1   198.51.100.1 ────── 198.51.100.2
//!   2001:db8:c::9 ::10 ::11 ── 2001:db8:c::1 2001:db8:e::1 ───── 2001:db8:e::2
//! ```
//!
//! The namespaces have no name: file descriptors hold them, so nothing outlives the process,
//! however it ends. Every `Proc` dies with the thread that started it, for the same reason; start
//! them from a thread that stays. Drop the lab last: it checks what the others have left. Nothing
//! here knows of `cargo test`, so that demos and benches can use it too.

pub mod addr;
pub mod app;
pub mod counters;
pub mod datagram;
pub mod dns;
pub mod dnsdist;
pub mod fail2ban;
pub mod flood;
pub mod flows;
pub mod forge;
pub mod haproxy;
pub mod header;
pub mod hitch;
pub mod keeper;
pub mod leaks;
pub mod lossy;
pub mod mangle;
pub mod mariadb;
pub mod netns;
pub mod packet;
pub mod path;
pub mod payload;
pub mod pki;
pub mod poll;
pub mod postfix;
pub mod proc;
pub mod random;
pub mod raw;
pub mod repair;
pub mod root;
pub mod scale;
pub mod sender;
pub mod served;
pub mod server;
pub mod service;
pub mod smtp;
pub mod spray;
pub mod stall;
pub mod stream;
pub mod stunnel;
pub mod talk;
pub mod trains;
pub mod truepeer;
pub mod tuntap;
pub mod udp_balancer;
mod uplink;
pub mod varnish;
pub mod wire;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use netns::Netns;

/// Where a running daemon and its allowlist may have put something.
pub const PINS: &str = "/sys/fs/bpf/truepeer";
const RUN: &str = "/run/truepeer";

pub struct Lab {
    pub client: Netns,
    pub edge: Netns,
    pub host: Netns,
    instance: String,
}

impl Lab {
    pub fn new() -> Result<Self> {
        raise_nofile()?;
        let lab = Self {
            client: Netns::new("client")?,
            edge: Netns::new("edge")?,
            host: Netns::new("host")?,
            instance: unique_instance(),
        };
        lab.wire().context("wiring the lab")?;
        Ok(lab)
    }

    /// The `--instance` of this lab's truepeer; no other lab of this machine has it.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    fn wire(&self) -> Result<()> {
        self.edge.ip(&format!(
            "link add client type veth peer name edge netns {client}",
            client = self.client.path().display(),
        ))?;
        uplink::join(&self.edge, &self.host)?;
        self.address_clients()?;
        self.address_uplink()?;
        // /proc/sys/net shows the namespace of whoever opens the file.
        self.edge.enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?;
        uplink::wait(&self.edge, &self.host)
    }

    // Link-local addresses of the kernel's making come up late and change what tests compare, but
    // a router can't ask for its neighbours without one. They are off before a link is up: in one
    // request with that, kernel 6.1 has made them already.

    /// Of the link between clients and edge.
    fn address_clients(&self) -> Result<()> {
        self.edge.ip("link set client addrgenmode none
             link set client up
             address add fe80::1/64 dev client nodad
             address add 203.0.113.1/24 dev client
             address add 2001:db8:c::1/64 dev client nodad")?;
        self.client.ip("link set edge addrgenmode none
             link set edge up
             address add fe80::2/64 dev edge nodad
             address add 203.0.113.9/24 dev edge
             address add 203.0.113.10/24 dev edge
             address add 203.0.113.11/24 dev edge
             address add 2001:db8:c::9/64 dev edge nodad
             address add 2001:db8:c::10/64 dev edge nodad
             address add 2001:db8:c::11/64 dev edge nodad
             route add default via 203.0.113.1
             route add default via 2001:db8:c::1")
    }

    /// Of the link between edge and host. preferred_lft 0: only what asks for this address connects
    /// from it.
    fn address_uplink(&self) -> Result<()> {
        self.edge.ip("link set host addrgenmode none
             link set host up
             address add fe80::1/64 dev host nodad
             address add 198.51.100.1/24 dev host
             address add 198.51.100.7/24 dev host
             address add 2001:db8:e::1/64 dev host nodad
             address add 2001:db8:e::7/64 dev host nodad preferred_lft 0")?;
        self.host.ip("link set edge addrgenmode none
             link set edge up
             address add fe80::2/64 dev edge nodad
             address add 198.51.100.2/24 dev edge
             address add 2001:db8:e::2/64 dev edge nodad
             route add default via 198.51.100.1
             route add default via 2001:db8:e::1")
    }

    /// Fails if an ended truepeer left a device on the host. The kernel takes a dead namespace apart
    /// in the background, one after the other, hence the deadline: there are those of all other tests.
    pub fn no_device_left(&self) -> Result<()> {
        poll::within(3 * poll::PATIENCE, "truepeer's device to go", || {
            let devices = self.host.devices()?;
            let left = devices.iter().any(|name| name.starts_with("truepeer"));
            Ok((!left).then_some(()))
        })
    }

    /// Removes what may outlive a daemon, and fails if anything else of this lab is still there. The
    /// check that every test ends with.
    pub fn leaves_no_trace(&self) -> Result<()> {
        self.no_device_left()?;
        // A keeper may be about to end.
        let mut left = Vec::new();
        poll::until("what nobody may leave to go", || {
            left = self.left_behind()?;
            left.retain(|path| !may_stay(path));
            Ok(left.is_empty().then_some(()))
        })
        .with_context(|| format!("{} left {left:?}", self.instance))?;
        for path in self.left_behind()? {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Fails if a daemon that has ended left a socket, its own or its keeper's.
    pub fn no_socket_left(&self) -> Result<()> {
        poll::until("truepeer's sockets to go", || {
            let left = self.left_behind()?;
            let is_socket = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "sock");
            Ok((!left.iter().any(is_socket)).then_some(()))
        })
    }

    fn left_behind(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for place in [PINS, RUN, "/run/netns"] {
            let Ok(entries) = fs::read_dir(place) else {
                continue;
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let rest = name.to_string_lossy().into_owned();
                // x-1 must not claim x-10, but does claim x-1.sock and x-1.lock
                match rest.strip_prefix(self.instance.as_str()) {
                    Some(tail) if !tail.starts_with(|c: char| c.is_ascii_digit()) => {
                        found.push(entry.path());
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.leaves_no_trace() {
            // A second panic would hide the first one, and abort.
            if std::thread::panicking() {
                eprintln!("{error:#}");
            } else {
                panic!("{error:#}");
            }
        }
    }
}

/// What outlives a daemon on purpose, the pinned allowlist and the file that was locked, and what one
/// that was killed together with its keeper can't remove: the control socket, at which nobody listens
/// any more.
pub fn may_stay(path: &Path) -> bool {
    let name = path.to_string_lossy();
    path.starts_with(PINS)
        || name.ends_with(".lock")
        || name.ends_with(".sock")
            && !name.ends_with(".keeper.sock")
            && UnixStream::connect(path).is_err()
}

/// To the hard limit, for all labs of this process and the programs in them at once.
pub fn raise_nofile() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).context("raising the limit of files")
}

fn unique_instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("lab{}-{number}", process::id())
}

/// Programs attach otherwise where it is older.
pub fn has_tcx() -> Result<bool> {
    is_at_least(6, 6)
}

/// Of the running kernel's version.
pub fn is_at_least(major: u32, minor: u32) -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut numbers = numbers.filter_map(|number| number.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) >= (Some(major), Some(minor)))
}
