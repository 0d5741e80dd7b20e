//! What the programs know of listen addresses and targets.

use std::{io, net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Context as _, Result};
use aya::maps::MapError;
use proxy_common::{Endpoint, Listener, MAX_LISTENERS, port_bit};

use super::Kernel;

/// A listen address that `dispatch` knows.
pub struct Claim {
    listen: SocketAddr,
    socket: u32,
}

impl Kernel {
    /// From here on, connections to `listen` are the service's; without a socket they get a RST.
    pub fn claim(&mut self, listen: SocketAddr, service: &Listener) -> Result<Claim> {
        let mut all = 0..MAX_LISTENERS;
        let socket = all.find(|socket| !self.taken_sockets.contains(socket));
        let socket = socket.with_context(|| format!("too many listen addresses at {listen}"))?;
        let claim = Claim { listen, socket };
        self.update(&claim, service)?;
        self.claim_port(port_bit(listen.port()))?;
        self.taken_sockets.insert(socket);
        Ok(claim)
    }

    /// From here on, who connects to the claimed address gets a RST.
    pub fn refuse(&mut self, claim: &Claim) -> Result<()> {
        absent_is_fine(self.sockets.clear_index(&claim.socket))
            .with_context(|| format!("closing {}", claim.listen))
    }

    /// Connections to the address are the host's. The port's bit stays, for what is open there.
    pub fn unclaim(&mut self, claim: Claim) -> Result<()> {
        self.refuse(&claim)?;
        absent_is_fine(self.listeners.remove(&Endpoint::from(claim.listen)))
            .with_context(|| format!("giving {} up", claim.listen))?;
        self.taken_sockets.remove(&claim.socket);
        Ok(())
    }

    /// The same with what is known of the service by now.
    pub fn update(&mut self, claim: &Claim, service: &Listener) -> Result<()> {
        self.listeners
            .insert(Endpoint::from(claim.listen), service.at(claim.socket), 0)
            .with_context(|| format!("too many listen addresses at {}", claim.listen))
    }

    /// Connections to the claimed address go to `socket` and to those that share its address.
    pub fn serve(&mut self, claim: &Claim, socket: &impl AsRawFd) -> Result<()> {
        self.sockets
            .set(claim.socket, socket, 0)
            .with_context(|| format!("handing the listener at {} to sk_lookup", claim.listen))
    }

    /// Connections to `steered` reach what listens at `target`.
    pub fn add_target(&mut self, steered: SocketAddr, target: SocketAddr) -> Result<()> {
        self.targets
            .insert(Endpoint::from(steered), Endpoint::from(target), 0)
            .with_context(|| format!("too many targets at {target}"))
    }

    /// Nobody is to be steered by it any more.
    pub fn remove_target(&mut self, steered: SocketAddr) -> Result<()> {
        absent_is_fine(self.targets.remove(&Endpoint::from(steered)))
            .with_context(|| format!("forgetting target {steered}"))
    }

    /// Connections to `target` leave this host, and what answers comes back through it.
    pub fn add_remote(&mut self, target: SocketAddr) -> Result<()> {
        self.devices.follow_remotes(&mut self.ebpf, &mut self.tc);
        self.add_target(target, target)
    }
}

/// What is to go may have gone, or never have been there.
pub(super) fn absent_is_fine(done: Result<(), MapError>) -> Result<(), MapError> {
    match done {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if is_absent(&error.io_error) => Ok(()),
        done => done,
    }
}

fn is_absent(error: &io::Error) -> bool {
    // A sockmap says the latter.
    [libc::ENOENT, libc::EINVAL].contains(&error.raw_os_error().unwrap_or_default())
}
