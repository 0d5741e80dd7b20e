//! Ways to clients: a reply that has no way leaves nothing to steer.

use std::{io, net::IpAddr};

use anyhow::Result;
use futures_util::future::join_all;
use proxy_common::Addr;

use super::Finding;
use crate::{
    config::{Config, Service},
    kernel::{Entries, List, Prefixes},
    netns::{Addresses, NextHop, Way, answers, way_to},
    relay::{Fallback, Martian, check_client},
};

/// Clients to ask with.
pub fn nobody() -> [IpAddr; 2] {
    Addr::NOBODY.map(IpAddr::from)
}

/// Whether clients anywhere can be answered, for each family that is served.
pub async fn check(config: &Config) -> Vec<Finding> {
    join_all(served(config).map(default_route)).await
}

/// Whether the routers on the way to them are there. One that isn't takes seconds to tell.
pub async fn routers(config: &Config) -> Vec<Finding> {
    let findings = join_all(served(config).map(router)).await;
    findings.into_iter().flatten().collect()
}

/// A client of each family that a target has.
fn served(config: &Config) -> impl Iterator<Item = IpAddr> {
    nobody().into_iter().filter(|nobody| {
        let mut targets = config.services.iter().flat_map(Service::targets);
        targets.any(|target| target.is_ipv4() == nobody.is_ipv4())
    })
}

async fn router(nobody: IpAddr) -> Option<Finding> {
    const SUBJECT: &str = "router";
    let Ok(Way::Out(hop)) = way_to(nobody).await else {
        return None;
    };
    Some(match answers(&hop).await {
        Ok(true) => Finding::ok(
            SUBJECT,
            format!("{} answers on {}", hop.address, hop.device),
        ),
        Ok(false) => silent(SUBJECT, nobody, &hop),
        Err(error) => Finding::warn(SUBJECT, format!("unknown: {error:#}"), "see `ip neigh`"),
    })
}

async fn default_route(nobody: IpAddr) -> Finding {
    const SUBJECT: &str = "route";
    let (family, flag) = if nobody.is_ipv4() {
        ("IPv4", "-4")
    } else {
        ("IPv6", "-6")
    };
    match way_to(nobody).await {
        Ok(Way::Out(hop)) => Finding::ok(
            SUBJECT,
            format!("{family} clients are answered by {}", hop.device),
        ),
        Ok(Way::Here) => Finding::ok(SUBJECT, format!("{family} clients are answered by lo")),
        Ok(Way::Broadcast | Way::Nowhere(_)) => Finding::warn(
            SUBJECT,
            format!(
                "no {family} default route: truepeer adds one by its own device, which replies alone \
                 can use"
            ),
            format!("for the host's own traffic: ip {flag} route add default via ROUTER"),
        ),
        Err(error) => Finding::warn(
            SUBJECT,
            format!("unknown: {error:#}"),
            format!("see `ip {flag} route`"),
        ),
    }
}

/// Whether this very client is served, and replies to it can be steered.
pub async fn client(client: IpAddr, config: &Config, own: &Addresses) -> Finding {
    const SUBJECT: &str = "client";
    let client = client.to_canonical();
    if let Some(finding) = untargeted(client, config) {
        return finding;
    }
    if let Some(finding) = denied(client, config) {
        return finding;
    }
    if config.steer.or_first().contains(&client) {
        let message = format!("{client} is {}: it is refused", Martian::Steer);
        return Finding::fail(SUBJECT, message, "name an address that a client can have");
    }
    let checked = check_client(client, own);
    if let Some(finding) = taken(client, config, checked == Err(Martian::Own)) {
        return finding;
    }
    match checked {
        Ok(()) => {}
        Err(Martian::Own) => {
            let message = format!("{client} is this host's own: it is connected from as it is");
            return Finding::ok(SUBJECT, message);
        }
        Err(martian) => {
            let message = format!("{client} is {martian}: it is refused");
            return Finding::fail(SUBJECT, message, "name an address that a client can have");
        }
    }
    let found = reach(client).await;
    found.unwrap_or_else(|error| {
        let next = format!("see `ip route get {client}`");
        Finding::warn(SUBJECT, format!("{client}: unknown: {error:#}"), next)
    })
}

/// Whether it is one whose address is somebody's already, from which nothing is sent.
fn taken(client: IpAddr, config: &Config, is_own: bool) -> Option<Finding> {
    const SUBJECT: &str = "client";
    let refuses = |service: &&Service| {
        let is_target = service.targets().any(|target| target.ip() == client);
        match is_own {
            true => service.is_udp(),
            false => is_target && service.clients.on_martian == Fallback::Reject,
        }
    };
    let service = config.services.iter().find(refuses)?;
    let whose = match is_own {
        true => Martian::Own,
        false => Martian::Target,
    };
    let message = format!(
        "{client} is {whose}: it is refused by service {}",
        service.name
    );
    let next = "have it speak to the application itself, past the balancer";
    Some(Finding::fail(SUBJECT, message, next))
}

/// By the configuration, or live.
fn denied(client: IpAddr, config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "client";
    let live = Prefixes::find(&config.instance, List::Deny);
    let live = live.ok().flatten().and_then(|list| list.of_all().ok());
    let live = live.unwrap_or_default();
    config.services.iter().find_map(|service| {
        let mut denied = service.deny.read().unwrap_or_default();
        denied.extend(live.get(&service.id).into_iter().flat_map(Entries::keys));
        let by = denied.into_iter().find(|prefix| prefix.contains(&client))?;
        let message = format!("{client} is denied by {by}: it is refused");
        let next = format!("take it out of --deny and --deny-file, or `truepeer deny remove {by}`");
        Some(Finding::fail(SUBJECT, message, next))
    })
}

/// What becomes of a client that no target is of the family of.
fn untargeted(client: IpAddr, config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "client";
    let without = config.services.iter().find(|service| {
        let mut targets = service.targets();
        targets.all(|target| target.is_ipv4() != client.is_ipv4())
    });
    let service = without?;
    let flag = if client.is_ipv4() {
        "--target4"
    } else {
        "--target6"
    };
    Some(match service.clients.on_no_target {
        Fallback::Unspoofed => Finding::ok(
            SUBJECT,
            format!(
                "{client} is served from this host's own address, by the other family's target"
            ),
        ),
        Fallback::Reject => Finding::fail(
            SUBJECT,
            format!(
                "service {} has no target for {client}: it is refused",
                service.name
            ),
            match service.is_udp() {
                true => format!("give {flag}"),
                false => format!("give {flag}, or --on-no-target unspoofed"),
            },
        ),
    })
}

async fn reach(client: IpAddr) -> Result<Finding> {
    const SUBJECT: &str = "client";
    Ok(match way_to(client).await? {
        Way::Out(hop) if answers(&hop).await? => Finding::ok(
            SUBJECT,
            format!(
                "replies to {client} leave by {} and are steered",
                hop.device
            ),
        ),
        Way::Out(hop) => silent(SUBJECT, client, &hop),
        Way::Here => Finding::fail(
            SUBJECT,
            format!("{client} is local to this host: replies never leave it"),
            format!("see `ip route get {client}`"),
        ),
        Way::Broadcast => Finding::fail(
            SUBJECT,
            format!("{client} is a broadcast address: no client has it"),
            "name an address that a client can have",
        ),
        Way::Nowhere(error) => match refusing_route(&error) {
            Some(kind) => Finding::fail(
                SUBJECT,
                format!("a route of the kind {kind} keeps replies to {client} from leaving"),
                format!("see `ip route get {client}`, and change that route"),
            ),
            None => Finding::ok(
                SUBJECT,
                format!("no route leads to {client}: replies take truepeer's own, and are steered"),
            ),
        },
    })
}

/// As the kernel answers for routes that are there to refuse.
fn refusing_route(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EINVAL => Some("blackhole"),
        libc::EACCES => Some("prohibit"),
        libc::EHOSTUNREACH => Some("unreachable"),
        _ => None,
    }
}

fn silent(
    subject: &'static str,
    client: IpAddr,
    NextHop {
        address,
        is_router,
        device,
        ..
    }: &NextHop,
) -> Finding {
    let (what, next) = if *is_router {
        (
            format!("its router {address} doesn't answer on {device}"),
            format!("bring {address} up, or change the route to {client}"),
        )
    } else {
        (
            format!("it is on the link of {device}, but no neighbour answers there"),
            format!(
                "add a route to {client} by a router, or `ip neigh replace {client} lladdr MAC dev {device}`"
            ),
        )
    };
    Finding::fail(
        subject,
        format!("replies to {client} can't be steered: {what}"),
        next,
    )
}
