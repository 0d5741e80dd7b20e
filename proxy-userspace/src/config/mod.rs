//! What was typed, resolved: checked as far as that goes without touching the system.

mod limits;
mod prefixes;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use proxy_common::shares::Limits;
use thiserror::Error;

pub use limits::{MAX_CLIENTS, client_limits};
pub use prefixes::{PrefixSource, misread, parse_prefix};

use crate::{
    header::Policy,
    netns::{SteerNets, is_unicast},
    relay::{ClientPolicy, udp::Framing},
};

#[derive(Clone, Debug)]
pub struct Config {
    pub instance: String,
    pub workers: NonZeroUsize,
    pub maxconn: Option<NonZeroUsize>,
    pub drain_timeout: Duration,
    /// How long open connections may go on without a daemon.
    pub orphan_timeout: Duration,
    /// Who may ask for its status, besides its own user.
    pub status_group: Option<u32>,
    /// Whether to continue a daemon of this instance that runs.
    pub take_over: bool,
    pub steer: SteerNets,
    pub direct: Direct,
    pub services: Vec<Service>,
}

/// Whether a connection may go from balancer to application without a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Direct {
    /// Where the host allows it: see `truepeer check`
    #[default]
    Auto,
    /// Never: all go through the daemon
    Off,
}

/// What a service's balancers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp {
        framing: Framing,
        /// Without a datagram either way, a client is forgotten after this.
        close_after: CloseAfter,
        outsiders: Option<Outsiders>,
        limits: Limits,
    },
}

/// Whether anybody else than balancers' clients and this host itself is answered by an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Outsiders {
    /// Nobody: so nothing can get to a client that is forgotten
    Refuse,
    /// Whoever could without truepeer
    App,
}

/// What carries a service's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As IP has it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How long a client may be silent: whole seconds, as many as the programs count to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseAfter(u16);

impl CloseAfter {
    pub const MINUTE: Self = Self(60);

    /// None if it is too short or too long.
    pub fn new(time: Duration) -> Option<Self> {
        let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let seconds = u16::try_from(whole).ok()?;
        (seconds > 0).then_some(Self(seconds))
    }

    pub const fn seconds(self) -> u16 {
        self.0
    }
}

/// A balancer's side, an application's side, and what holds between them.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub protocol: Protocol,
    /// What its entries in the lists are filed under.
    pub id: u32,
    pub listen: Vec<SocketAddr>,
    pub target4: Option<SocketAddrV4>,
    pub target6: Option<SocketAddrV6>,
    /// Balancers that may connect.
    pub allow: PrefixSource,
    /// Clients that may not.
    pub deny: PrefixSource,
    pub header: HeaderOptions,
    pub clients: ClientPolicy,
    pub connect_timeout: Duration,
}

/// How a service takes its headers.
#[derive(Clone, Copy, Debug)]
pub struct HeaderOptions {
    pub policy: Policy,
    pub timeout: Duration,
}

impl Service {
    pub const fn transport(&self) -> Transport {
        match self.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp { .. } => Transport::Udp,
        }
    }

    pub fn is_udp(&self) -> bool {
        self.transport() == Transport::Udp
    }

    /// Whether only balancers' clients are answered by the application there. Who is at a loopback address has
    /// hardly anybody else.
    pub fn is_exclusive(&self, target: SocketAddr) -> bool {
        match self.protocol {
            Protocol::Tcp => false,
            Protocol::Udp { outsiders, .. } => match outsiders {
                Some(outsiders) => outsiders == Outsiders::Refuse,
                None => target.ip().is_loopback(),
            },
        }
    }

    pub fn targets(&self) -> impl Iterator<Item = SocketAddr> {
        let v4 = self.target4.map(SocketAddr::V4);
        v4.into_iter().chain(self.target6.map(SocketAddr::V6))
    }

    /// Balancers that may connect, or an error that admits nobody.
    pub fn read_allow(&self) -> Result<Vec<IpNet>, ConfigError> {
        let PrefixSource { prefixes, files } = &self.allow;
        if prefixes.is_empty() && files.is_empty() {
            return Err(ConfigError::NoAllowlist);
        }
        let allowed = self.allow.read()?;
        if allowed.is_empty() {
            let files: Vec<_> = files
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return Err(ConfigError::EmptyAllowlist(files.join(", ")));
        }
        Ok(allowed)
    }
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{path}:{line}:{column}: {what}", path = .path.display())]
    InFile {
        path: PathBuf,
        line: usize,
        column: usize,
        what: String,
    },
    #[error(
        "no allowlist: name the balancers with --allow CIDR or --allow-file FILE \
         (anyone at all is written --allow 0.0.0.0/0 --allow ::/0)"
    )]
    NoAllowlist,
    #[error(
        "the allowlist is empty: {0} has no CIDR prefix or address \
         (anyone at all is written 0.0.0.0/0 and ::/0)"
    )]
    EmptyAllowlist(String),
    #[error("can't read {path}: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{path}:{line}: {found:?} is no CIDR prefix or address, one of which each line has: {why}"
    )]
    BadLine {
        path: PathBuf,
        line: usize,
        found: String,
        why: String,
    },
    #[error(
        "listening at {listen} takes target {target} from the application: give truepeer and the \
         application different ports, or truepeer an address of its own"
    )]
    ListensAtTarget {
        listen: SocketAddr,
        target: SocketAddr,
    },
    #[error(
        "target {target} of UDP has the port of another one, {other}: give the applications different ports, or \
         serve one of them by an instance of its own"
    )]
    SamePort {
        target: SocketAddr,
        other: SocketAddr,
    },
    #[error(
        "target {0} has one service with --outsiders refuse and one with app: give both the same"
    )]
    OutsidersDiffer(SocketAddr),
    #[error("{0} is given twice as a listen address")]
    ListensTwice(SocketAddr),
    #[error("target {0} is {why}, where no application can be: give its address", why = nowhere(.0.ip()))]
    NoTarget(SocketAddr),
    #[error("target {0} has port 0: give the application's port")]
    NoPort(SocketAddr),
    #[error("listening at {0} needs a port: give the one that balancers connect to")]
    NoListenPort(SocketAddr),
    #[error(
        "listening at {0}: no balancer can connect there; give an address that `ip address` shows, but no \
         link-local one of IPv6, or 0.0.0.0 or [::]"
    )]
    NoListen(SocketAddr),
    #[error(
        "{address} is in the steer network {net}, whose addresses are truepeer's own: give another one, or \
         choose another network by --steer4 or --steer6"
    )]
    SteerAddress { address: SocketAddr, net: IpNet },
    #[error(
        "at target {target} instance {instance} listens, and no client's connection goes to a listener of \
         truepeer's: give the application's own address and port"
    )]
    OthersListen {
        target: SocketAddr,
        instance: String,
    },
    #[error(
        "IPv6 is switched off on this host, and service {0} has no IPv4 target: switch it on, or give \
         --target4"
    )]
    NoFamily(String),
    #[error("the steer network {0} has too few addresses for the targets: choose a larger one")]
    SteerNetTooSmall(String),
    #[error("--header {0} is for UDP: add -p udp, or write any, v1 or v2")]
    HeaderOfUdp(&'static str),
    #[error("--header v1 has no word for UDP: write v2 (or any), v2-first or spp with -p udp")]
    HeaderOfTcp,
    #[error(
        "{0} unspoofed is for TCP: with -p udp such a client's datagrams are dropped, so leave it out"
    )]
    UnspoofedUdp(&'static str),
    #[error("--outsiders is for -p udp only so far: leave it out")]
    OutsidersOfTcp,
    #[error("--maxconn-per-balancer is for UDP: add -p udp, or leave it out")]
    PerBalancerTcp,
}

/// What an address is that nobody can connect to.
fn nowhere(address: IpAddr) -> &'static str {
    match address {
        _ if address.is_unspecified() => "every address of the host and none of them",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of no host",
        IpAddr::V4(_) => "a broadcast address",
        IpAddr::V6(_) => "a link-local address, which means nothing without its link",
    }
}

/// Whether who listens at `listen` hears what is for `at`; `is_local`: an address of this host.
fn hears(listen: SocketAddr, at: SocketAddr, is_local: bool) -> bool {
    let is_any = listen.ip().is_unspecified() && (listen.is_ipv6() || at.is_ipv4());
    listen.port() == at.port() && (listen.ip() == at.ip() || is_local && is_any)
}

impl Config {
    /// Whether no service listens where a target is; `is_local`: at an address of this host.
    pub fn is_free(
        &self,
        transport: Transport,
        target: SocketAddr,
        is_local: bool,
    ) -> Result<(), ConfigError> {
        let same = |service: &&Service| service.transport() == transport;
        let services = self.services.iter().filter(same);
        let mut listens = services.flat_map(|service| &service.listen);
        match listens.find(|listen| hears(**listen, target, is_local)) {
            Some(&listen) => Err(ConfigError::ListensAtTarget { listen, target }),
            None => Ok(()),
        }
    }

    /// Whether no listener of another instance is there; `is_local`: at an address of this host.
    pub fn is_nobodys<'a>(
        &self,
        target: SocketAddr,
        is_local: bool,
        others: impl IntoIterator<Item = (&'a str, SocketAddr)>,
    ) -> Result<(), ConfigError> {
        let mut others = others.into_iter();
        match others.find(|(_, listen)| hears(*listen, target, is_local)) {
            Some((instance, _)) => Err(ConfigError::OthersListen {
                target,
                instance: instance.into(),
            }),
            None => Ok(()),
        }
    }

    fn is_no_steer_address(&self, address: SocketAddr) -> Result<(), ConfigError> {
        let steer = self.steer.or_first();
        let mut nets = steer.nets();
        match nets.find(|net| net.contains(&address.ip())) {
            Some(net) => Err(ConfigError::SteerAddress { address, net }),
            None => Ok(()),
        }
    }

    /// An application at a wildcard address is known by its port, so that two targets can't have one.
    fn datagram_targets_differ(&self) -> Result<(), ConfigError> {
        let mut seen = HashMap::new();
        for service in self.services.iter().filter(|service| service.is_udp()) {
            for target in service.targets() {
                let is_exclusive = service.is_exclusive(target);
                let of_port = (target.is_ipv4(), target.port());
                let (other, others) = *seen.entry(of_port).or_insert((target, is_exclusive));
                if other != target {
                    return Err(ConfigError::SamePort { target, other });
                }
                if others != is_exclusive {
                    return Err(ConfigError::OutsidersDiffer(target));
                }
            }
        }
        Ok(())
    }

    /// What can't work whatever the host looks like.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.datagram_targets_differ()?;
        let mut seen = HashSet::new();
        for service in &self.services {
            for target in service.targets() {
                if target.port() == 0 {
                    return Err(ConfigError::NoPort(target));
                }
                if !is_unicast(target.ip()) {
                    return Err(ConfigError::NoTarget(target));
                }
                self.is_no_steer_address(target)?;
                self.is_free(service.transport(), target, target.ip().is_loopback())?;
            }
            for listen in &service.listen {
                if listen.port() == 0 {
                    return Err(ConfigError::NoListenPort(*listen));
                }
                if !is_unicast(listen.ip()) && !listen.ip().is_unspecified() {
                    return Err(ConfigError::NoListen(*listen));
                }
                self.is_no_steer_address(*listen)?;
                if !seen.insert((service.transport(), *listen)) {
                    return Err(ConfigError::ListensTwice(*listen));
                }
            }
        }
        Ok(())
    }
}
