//! Where services listen, and who else does.

use std::net::SocketAddr;

use super::{Config, ConfigError, Transport};

/// Where another instance listens.
pub struct Beside<'a> {
    pub instance: &'a str,
    pub listen: SocketAddr,
    pub targets: &'a [SocketAddr],
    pub is_tcp: bool,
    /// Whether what is no balancer's there is left to the application.
    pub is_shared: bool,
}

/// Whether who listens at `listen` hears what is for `at`; `is_local`: an address of this host.
fn hears(listen: SocketAddr, at: SocketAddr, is_local: bool) -> bool {
    let is_any = listen.ip().is_unspecified() && (listen.is_ipv6() || at.is_ipv4());
    listen.port() == at.port() && (listen.ip() == at.ip() || is_local && is_any)
}

/// Whether somebody comes to both of two listen addresses of this host.
pub fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    hears(one, other, true) || hears(other, one, true)
}

impl Config {
    /// Where services of this transport listen.
    pub fn listens(&self, transport: Transport) -> impl Iterator<Item = SocketAddr> {
        let services = self.services.iter();
        let services = services.filter(move |service| service.transport() == transport);
        services.flat_map(|service| service.listen.iter().copied())
    }

    /// Whether a service of TCP's leaves this listen address to the application as well.
    pub fn shares_listen(&self, listen: SocketAddr) -> bool {
        self.listens_shared(true).any(|at| at == listen)
    }

    /// Where services of TCP listen that leave, or don't leave, outsiders to the application.
    pub fn listens_shared(&self, is_shared: bool) -> impl Iterator<Item = SocketAddr> {
        let of_tcp = self.services.iter().filter(|service| !service.is_udp());
        let these = of_tcp.filter(move |service| service.shares_listen() == is_shared);
        these.flat_map(|service| service.listen.iter().copied())
    }

    /// Who is left to the application at one address would come to our own socket at another.
    pub(super) fn is_shared_or_not(&self) -> Result<(), ConfigError> {
        for shared in self.listens_shared(true) {
            let mut alone = self.listens_shared(false);
            if let Some(alone) = alone.find(|alone| meet(shared, *alone)) {
                return Err(ConfigError::SharedAndNot { shared, alone });
            }
        }
        Ok(())
    }

    /// Whether no service listens where a target is, but for one that leaves it to the application; `is_local`: at an
    /// address of this host.
    pub fn is_free(
        &self,
        transport: Transport,
        target: SocketAddr,
        is_local: bool,
    ) -> Result<(), ConfigError> {
        let alone = self
            .services
            .iter()
            .filter(|service| !service.shares_listen());
        let of_transport = alone.filter(|service| service.transport() == transport);
        let mut listens = of_transport.flat_map(|service| service.listen.iter().copied());
        match listens.find(|listen| hears(*listen, target, is_local)) {
            Some(listen) => Err(ConfigError::ListensAtTarget { listen, target }),
            None => Ok(()),
        }
    }

    /// Whether no listener of another instance is there; `is_local`: at an address of this host.
    pub fn is_nobodys(
        &self,
        target: SocketAddr,
        is_local: bool,
        others: &[Beside<'_>],
    ) -> Result<(), ConfigError> {
        let mut others = others.iter();
        match others.find(|other| hears(other.listen, target, is_local)) {
            Some(other) => Err(ConfigError::OthersListen {
                target,
                instance: other.instance.into(),
            }),
            None => Ok(()),
        }
    }

    /// Whether no other instance has a say on who comes to an address that is left to the application, whose sockets
    /// don't tell the kernel of it.
    pub fn is_alone(&self, others: &[Beside<'_>]) -> Result<(), ConfigError> {
        for service in self.services.iter().filter(|service| !service.is_udp()) {
            for &listen in &service.listen {
                let mut others = others.iter().filter(|other| other.is_tcp);
                let is_one = |other: &&Beside<'_>| {
                    let is_shared = service.shares_listen();
                    // Its clients come to a steer address of its own, which is any address to us.
                    let has_target = || other.targets.iter().any(|target| meet(listen, *target));
                    (is_shared || other.is_shared) && meet(other.listen, listen)
                        || is_shared && has_target()
                };
                if let Some(other) = others.find(is_one) {
                    return Err(ConfigError::OthersShare {
                        listen,
                        instance: other.instance.into(),
                    });
                }
            }
        }
        Ok(())
    }
}
