//! What was typed, resolved: checked as far as that goes without touching the system.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use thiserror::Error;

use crate::{
    header::Policy,
    netns::{SteerNets, is_unicast},
    relay::ClientPolicy,
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

/// A balancer's side, an application's side, and what holds between them.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
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
}

/// Where a list comes from; read at start and again at each reload.
#[derive(Clone, Debug, Default)]
pub struct PrefixSource {
    pub prefixes: Vec<IpNet>,
    pub files: Vec<PathBuf>,
}

impl PrefixSource {
    /// In order, and each once.
    pub fn read(&self) -> Result<Vec<IpNet>, ConfigError> {
        let mut prefixes = self.prefixes.clone();
        for path in &self.files {
            prefixes.extend(read_prefixes(path)?);
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(prefixes)
    }
}

/// The format of mmproxy and go-mmproxy: a prefix or address a line, blank lines and comments.
fn read_prefixes(path: &Path) -> Result<Vec<IpNet>, ConfigError> {
    const BYTE_ORDER_MARK: char = '\u{feff}';
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let mut prefixes = Vec::new();
    for (index, line) in text.trim_start_matches(BYTE_ORDER_MARK).lines().enumerate() {
        let entry = line.split(['#', ';']).next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        prefixes.push(parse_prefix(entry).map_err(|why| ConfigError::BadLine {
            path: path.to_owned(),
            line: index + 1,
            found: entry.to_owned(),
            why,
        })?);
    }
    Ok(prefixes)
}

/// A prefix without its host bits, or an address as a prefix of its own. IPv4-mapped IPv6 is
/// IPv4, which is what the kernel sees. The error says what to write instead.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    const MAPPED_BITS: u8 = 96;
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| no_prefix(text))?,
    };
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(prefix_len) = v6.prefix_len().checked_sub(MAPPED_BITS)
    {
        let v4 = IpNet::new(v4.into(), prefix_len).map_err(|_| no_prefix(text))?;
        return Ok(v4.trunc());
    }
    Ok(net.trunc())
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

/// What is wrong with an address that has a port or a zone, or is a name; none if it is something else.
pub fn misread(text: &str) -> Option<String> {
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(format!("there is no port here: write {}", with_port.ip()));
    }
    let host = text.split('/').next().unwrap_or_default();
    if let Some((host, _zone)) = host.split_once('%')
        && let Ok(address) = host.parse::<IpAddr>()
    {
        return Some(format!("an address has no zone here: write {address}"));
    }
    let is_name = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':');
    is_name
        .then(|| format!("{host} is a name: write its address (`getent ahosts {host}` shows it)"))
}

/// What is wrong with a text that is no prefix.
fn no_prefix(text: &str) -> String {
    if let Some(wrong) = misread(text) {
        return wrong;
    }
    if let Some((first, _)) = text.split_once('-')
        && first.trim().parse::<IpAddr>().is_ok()
    {
        return "a range can't be written: give the prefixes that make it up, as in 192.0.2.0/24"
            .into();
    }
    if let Some((address, len)) = text.split_once('/')
        && let Ok(address) = address.parse::<IpAddr>()
    {
        if let Ok(bits) = len.parse().map(ipnet::ipv4_mask_to_prefix)
            && let Ok(bits) = bits
        {
            return format!("a mask is written as its number of bits: write {address}/{bits}");
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return format!(
            "a prefix length is a number from 0 to {bits}: write {address}/{bits} for this address alone"
        );
    }
    "write a CIDR prefix or an address, as in 192.0.2.0/24".into()
}

/// Whether who listens at `listen` hears what is for `at`; `is_local`: an address of this host.
fn hears(listen: SocketAddr, at: SocketAddr, is_local: bool) -> bool {
    let is_any = listen.ip().is_unspecified() && (listen.is_ipv6() || at.is_ipv4());
    listen.port() == at.port() && (listen.ip() == at.ip() || is_local && is_any)
}

impl Config {
    /// Whether no service listens where a target is; `is_local`: at an address of this host.
    pub fn is_free(&self, target: SocketAddr, is_local: bool) -> Result<(), ConfigError> {
        let mut listens = self.services.iter().flat_map(|service| &service.listen);
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

    /// What can't work whatever the host looks like.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut seen = Vec::new();
        for service in &self.services {
            for target in service.targets() {
                if target.port() == 0 {
                    return Err(ConfigError::NoPort(target));
                }
                if !is_unicast(target.ip()) {
                    return Err(ConfigError::NoTarget(target));
                }
                self.is_no_steer_address(target)?;
                self.is_free(target, target.ip().is_loopback())?;
            }
            for listen in &service.listen {
                if listen.port() == 0 {
                    return Err(ConfigError::NoListenPort(*listen));
                }
                if !is_unicast(listen.ip()) && !listen.ip().is_unspecified() {
                    return Err(ConfigError::NoListen(*listen));
                }
                self.is_no_steer_address(*listen)?;
                if seen.contains(listen) {
                    return Err(ConfigError::ListensTwice(*listen));
                }
                seen.push(*listen);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_lose_their_host_bits_and_mapping() {
        for (text, expected) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("192.0.2.7", Some("192.0.2.7/32")),
            ("::1", Some("::1/128")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("10.0.0", None),
            ("010.0.0.1", None),
            ("", None),
        ] {
            let expected = expected.map(|net| net.parse().expect("a prefix"));
            assert_eq!(parse_prefix(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn each_mistake_in_a_prefix_is_told_by_its_own_words() {
        for (text, expected) in [
            ("10.0.0.0/33", "from 0 to 32: write 10.0.0.0/32"),
            ("::1/129", "from 0 to 128"),
            ("10.0.0.1/", "from 0 to 32"),
            ("10.0.0.1-10.0.0.9", "a range"),
            ("fe80::1%eth0", "no zone here: write fe80::1"),
            ("10.0.0.1:80", "no port here: write 10.0.0.1"),
            ("10.0.0.0/255.0.0.0", "write 10.0.0.0/8"),
            ("lb.example.com", "lb.example.com is a name"),
            ("10.0.0", "as in 192.0.2.0/24"),
            ("", "as in 192.0.2.0/24"),
        ] {
            let said = parse_prefix(text).expect_err(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
