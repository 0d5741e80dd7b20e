//! What was typed, resolved: checked as far as that goes without touching the system.

mod error;
mod limits;
mod listens;
mod prefixes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use proxy_common::{limits::Limits, shares::RingSizes};

pub use error::ConfigError;
pub use limits::{MAX_CLIENTS, ring_sizes};
pub use listens::{Beside, meet};
pub use prefixes::{PrefixSource, misread, parse_prefix, read_kept};

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
        sizes: RingSizes,
    },
}

/// What becomes of those who are no balancers: who connects to a service of TCP's; of UDP, whether anybody else than
/// balancers' clients and this host itself is answered by the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Outsiders {
    /// They are refused; UDP: nothing can get to a client that is forgotten
    Refuse,
    /// They reach the application as they could without truepeer
    App,
}

/// What carries a service's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// As chosen.
    pub outsiders: Option<Outsiders>,
    /// What its entries in the lists are filed under.
    pub id: u32,
    /// Whether nobody new gets in.
    pub drained: bool,
    /// Devices whose drivers drop who is no balancer.
    pub guard: Vec<String>,
    pub listen: Vec<SocketAddr>,
    pub target4: Option<SocketAddrV4>,
    pub target6: Option<SocketAddrV6>,
    /// Balancers that may connect.
    pub allow: PrefixSource,
    /// Where what `truepeer allow` puts there is kept.
    pub allow_state: Option<PathBuf>,
    /// Clients that may not.
    pub deny: PrefixSource,
    pub header: HeaderOptions,
    pub clients: ClientPolicy,
    /// Of each balancer, and of each client. UDP's rings have how many flows a balancer may have.
    pub limits: Limits,
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
            Protocol::Udp { .. } => match self.outsiders {
                Some(outsiders) => outsiders == Outsiders::Refuse,
                None => target.ip().is_loopback(),
            },
        }
    }

    /// Whether its listen addresses are those of applications as well, which hear who is no balancer there.
    pub fn shares_listen(&self) -> bool {
        !self.is_udp() && self.outsiders == Some(Outsiders::App)
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

impl Config {
    /// The services that are guarded at a device, by its name.
    pub fn guarded(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let mut guarded = BTreeMap::<_, BTreeSet<_>>::new();
        for service in &self.services {
            for device in &service.guard {
                guarded
                    .entry(device.clone())
                    .or_default()
                    .insert(service.id);
            }
        }
        guarded
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
        self.is_shared_or_not()?;
        self.keep_lists_apart()?;
        let mut seen = HashSet::new();
        for service in &self.services {
            if service.shares_listen() && !service.guard.is_empty() {
                return Err(ConfigError::GuardsOutsiders);
            }
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

    fn keep_lists_apart(&self) -> Result<(), ConfigError> {
        let mut known = HashMap::new();
        for service in &self.services {
            let Some(path) = &service.allow_state else {
                continue;
            };
            if let Some(first) = known.insert(path, &service.name) {
                return Err(ConfigError::SameState {
                    path: path.clone(),
                    first: first.clone(),
                    second: service.name.clone(),
                });
            }
        }
        Ok(())
    }
}
