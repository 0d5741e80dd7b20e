//! What a new configuration changes, worked out before anything is changed.

use std::{collections::BTreeSet, fmt, net::SocketAddr};

use proxy_common::limits::Limits;
use thiserror::Error;

use crate::{
    config::{Config, Protocol, Service, Transport, meet},
    relay::udp::Framing,
};

/// From one configuration to another. Services are the same by name.
#[derive(Debug, Default)]
pub struct Difference {
    added: Vec<Service>,
    removed: Vec<Service>,
    changed: Vec<Changed>,
    pub tcp: Addresses,
    pub udp: Addresses,
}

/// A service whose keys aren't all what they were.
#[derive(Debug)]
struct Changed {
    name: String,
    keys: Vec<&'static str>,
}

/// Listen addresses that only one of both has.
#[derive(Debug, Default)]
pub struct Addresses {
    pub new: Vec<SocketAddr>,
    pub old: Vec<SocketAddr>,
}

/// What a daemon can't do while it serves.
#[derive(Debug, Error)]
#[error(
    "{0}: that can't change while it runs. Start it anew with `truepeer run --take-over`, which cuts no connection"
)]
pub struct NeedsRestart(String);

impl Difference {
    pub fn between(before: &Config, after: &Config) -> Result<Self, NeedsRestart> {
        let keys = of_instance(before, after);
        if !keys.is_empty() {
            return Err(NeedsRestart(keys.join(", ")));
        }
        hears_ipv4_elsewhere(before, after)?;
        is_left_to_the_application(before, after)?;
        let find = |config: &Config, name: &str| {
            let mut all = config.services.iter();
            all.find(|service| service.name == name).cloned()
        };
        let mut difference = Self {
            tcp: addresses(before, after, Transport::Tcp),
            udp: addresses(before, after, Transport::Udp),
            ..Self::default()
        };
        for service in &after.services {
            let Some(known) = find(before, &service.name) else {
                difference.added.push(service.clone());
                continue;
            };
            let keys = of_service(&known, service);
            if !keys.is_empty() {
                let name = service.name.clone();
                difference.changed.push(Changed { name, keys });
            }
        }
        let removed = before.services.iter();
        let removed = removed.filter(|service| find(after, &service.name).is_none());
        difference.removed = removed.cloned().collect();
        Ok(difference)
    }

    /// Whether services are as they were, whatever is on their lists.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// For people, a service each.
    pub fn lines(&self) -> Vec<String> {
        let added = self
            .added
            .iter()
            .map(|service| format!("added {}", Shown(service)));
        let removed = self
            .removed
            .iter()
            .map(|service| format!("removed {}", Shown(service)));
        let changed = self.changed.iter();
        let changed = changed.map(|it| format!("changed {}: {}", it.name, it.keys.join(", ")));
        added.chain(removed).chain(changed).collect()
    }
}

struct Shown<'a>(&'a Service);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.0;
        let listen: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
        let targets: Vec<_> = service.targets().map(|target| target.to_string()).collect();
        let (name, transport) = (&service.name, service.transport().name());
        let (listen, targets) = (listen.join(", "), targets.join(", "));
        write!(f, "{name}: {transport} at {listen} for {targets}")
    }
}

fn addresses(before: &Config, after: &Config, transport: Transport) -> Addresses {
    let of = |config: &Config| config.listens(transport).collect::<BTreeSet<_>>();
    let (before, after) = (of(before), of(after));
    Addresses {
        new: after.difference(&before).copied().collect(),
        old: before.difference(&after).copied().collect(),
    }
}

/// Whether a socket at `[::]` would have to hear IPv4 that has been another one's. One that hears none never will.
fn hears_ipv4_elsewhere(before: &Config, after: &Config) -> Result<(), NeedsRestart> {
    for transport in [Transport::Tcp, Transport::Udp] {
        let has_v4 = |config: &Config, port: u16| {
            let mut all = config.listens(transport);
            all.any(|at| at.is_ipv4() && at.port() == port)
        };
        let known: BTreeSet<_> = before.listens(transport).collect();
        let stays =
            |at: &SocketAddr| at.ip().is_unspecified() && at.is_ipv6() && known.contains(at);
        for at in after.listens(transport).filter(stays) {
            if has_v4(before, at.port()) && !has_v4(after, at.port()) {
                return Err(NeedsRestart(format!(
                    "no IPv4 address with port {} beside {at}, which would hear IPv4 from now on",
                    at.port()
                )));
            }
        }
    }
    Ok(())
}

/// Whether a socket would have to be where the application's is, or had to make way for that one.
fn is_left_to_the_application(before: &Config, after: &Config) -> Result<(), NeedsRestart> {
    for shares in [true, false] {
        for at in before.listens_shared(shares) {
            let mut others = after.listens_shared(!shares);
            if others.any(|other| meet(at, other)) {
                return Err(NeedsRestart(format!("outsiders, at {at}")));
            }
        }
    }
    Ok(())
}

/// The keys that are another one's now.
fn differ<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    let keys = keys.into_iter().filter(|(_, is_same)| !is_same);
    keys.map(|(key, _)| key).collect()
}

/// Those of the instance, but for what is only asked when it ends.
fn of_instance(before: &Config, after: &Config) -> Vec<&'static str> {
    let steer = |config: &Config| (config.steer.v4, config.steer.v6);
    differ([
        ("instance", before.instance == after.instance),
        ("workers", before.workers == after.workers),
        ("maxconn", before.maxconn == after.maxconn),
        ("direct", before.direct == after.direct),
        ("steer4", steer(before).0 == steer(after).0),
        ("steer6", steer(before).1 == steer(after).1),
        ("status_group", before.status_group == after.status_group),
        (
            "orphan_timeout",
            before.orphan_timeout == after.orphan_timeout,
        ),
    ])
}

fn of_service(before: &Service, after: &Service) -> Vec<&'static str> {
    let (udp, udp_after) = (Udp::of(before), Udp::of(after));
    let policy = |service: &Service| {
        (
            service.header.policy.versions,
            service.header.policy.max_len,
        )
    };
    let clients = (before.clients, after.clients);
    let mut keys = differ([
        ("protocol", before.transport() == after.transport()),
        ("listen", same_set(&before.listen, &after.listen)),
        ("target4", before.target4 == after.target4),
        ("target6", before.target6 == after.target6),
        (
            "allow",
            same_set(&before.allow.prefixes, &after.allow.prefixes),
        ),
        (
            "allow_files",
            same_set(&before.allow.files, &after.allow.files),
        ),
        ("allow_state", before.allow_state == after.allow_state),
        (
            "deny",
            same_set(&before.deny.prefixes, &after.deny.prefixes),
        ),
        (
            "deny_files",
            same_set(&before.deny.files, &after.deny.files),
        ),
        (
            "header",
            policy(before).0 == policy(after).0 && udp.framing == udp_after.framing,
        ),
        ("header_max_len", policy(before).1 == policy(after).1),
        (
            "header_timeout",
            before.header.timeout == after.header.timeout,
        ),
        (
            "connect_timeout",
            before.connect_timeout == after.connect_timeout,
        ),
        ("on_local", clients.0.on_local == clients.1.on_local),
        (
            "on_no_target",
            clients.0.on_no_target == clients.1.on_no_target,
        ),
        ("on_martian", clients.0.on_martian == clients.1.on_martian),
        ("close_after", udp.close_after == udp_after.close_after),
        ("guard", same_set(&before.guard, &after.guard)),
        ("outsiders", before.outsiders == after.outsiders),
        ("maxconn", udp.maxconn == udp_after.maxconn),
    ]);
    keys.extend(of_each(before, after));
    keys
}

/// What each balancer, and each client, may have and begin.
fn of_each(before: &Service, after: &Service) -> Vec<&'static str> {
    let per_balancer = |it: &Service| (Udp::of(it).per_balancer, it.limits.balancer.most);
    let (balancer, client) = (before.limits.balancer, before.limits.client);
    let Limits {
        balancer: balancer_after,
        client: client_after,
    } = after.limits;
    differ([
        (
            "maxconn_per_balancer",
            per_balancer(before) == per_balancer(after),
        ),
        ("maxconn_per_client", client.most == client_after.most),
        (
            "maxconnrate_per_balancer",
            balancer.new_per_second == balancer_after.new_per_second,
        ),
        (
            "maxconnrate_per_client",
            client.new_per_second == client_after.new_per_second,
        ),
    ])
}

fn same_set<T: Ord>(one: &[T], other: &[T]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect()
}

/// What services of TCP haven't.
#[derive(Default)]
struct Udp {
    framing: Option<Framing>,
    close_after: Option<u16>,
    maxconn: Option<u32>,
    per_balancer: Option<u32>,
}

impl Udp {
    fn of(service: &Service) -> Self {
        match service.protocol {
            Protocol::Tcp => Self::default(),
            Protocol::Udp {
                framing,
                close_after,
                sizes,
            } => Self {
                framing: Some(framing),
                close_after: Some(close_after.seconds()),
                maxconn: Some(sizes.service),
                per_balancer: Some(sizes.balancer),
            },
        }
    }
}
