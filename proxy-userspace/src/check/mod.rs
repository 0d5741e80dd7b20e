//! The self-test: what would keep a configuration from working, and what to do about it.

mod capabilities;
mod datagrams;
mod features;
mod filters;
mod finding;
mod guards;
mod holder;
mod listen;
mod path;
mod routes;
mod steer_nets;
mod steering;
mod targets;

use std::net::IpAddr;

use anyhow::{Result, bail};
use futures_util::future::join_all;

use filters::Filters;
pub use finding::{Finding, Status};
pub use listen::unusable;
use steering::Steering;

use crate::{
    admin::{self, Request},
    app,
    config::{Config, ConfigError, Service},
    facts::{self, Bound},
    netns::{self, Addresses, Host},
    privileges,
};

/// All of it, with real connections to the applications. Leaves nothing behind.
pub async fn full(config: &Config, clients: &[IpAddr]) -> Result<Vec<Finding>> {
    app::check_targets(config).await?;
    let mut findings = capabilities::check();
    findings.extend(features::check());
    findings.extend(routes::check(config).await);
    findings.extend(routes::routers(config).await);
    let bound = facts::bound(config).await?;
    findings.extend(Filters::read(config, &bound).await?.check(config.steer));
    let running = admin::ask(&config.instance, Request::Status).ok();
    findings.extend(listen::check(config, running.as_ref()));
    findings.extend(guards::check(config, running.as_ref()).await);
    for service in tcp(config) {
        findings.extend(targets::plainly(service, &bound).await);
    }
    let mut host = netns::watch().await?;
    // At the same time: a neighbour that isn't there takes seconds. Before there are routes of the check's
    // own.
    let clients = clients
        .iter()
        .map(|client| routes::client(*client, config, &host.addresses));
    let clients = join_all(clients).await;
    findings.extend(steer_nets::check(config, &host.addresses, true).await);
    findings.extend(steer(config, &mut host, &bound).await?);
    findings.extend(clients);
    Ok(findings)
}

fn tcp(config: &Config) -> impl Iterator<Item = &Service> {
    config.services.iter().filter(|service| !service.is_udp())
}

async fn steer(config: &Config, host: &mut Host, bound: &Bound) -> Result<Vec<Finding>> {
    const SUBJECT: &str = "steering";
    let mut steering = match Steering::new(config, host, bound).await {
        Ok(steering) => steering,
        Err(error) if error.is::<ConfigError>() => return Err(error),
        Err(error) => {
            let next = "see the capability and kernel lines above";
            return Ok(vec![Finding::fail(SUBJECT, format!("{error:#}"), next)]);
        }
    };
    let device = steering.device();
    let mut findings = vec![Finding::ok(
        SUBJECT,
        format!("device {device} and the programs work"),
    )];
    findings.extend(path::check(config, device).await);
    findings.extend(datagrams::check(config, &mut steering, bound).await?);
    for service in tcp(config) {
        findings.extend(targets::spoofed(service, &steering, bound).await);
    }
    Ok(findings)
}

/// What can be told at once and without a connection, a line in the log for each problem. The
/// error is what no start can do without.
pub async fn at_start(config: &Config, own: &Addresses) -> Result<()> {
    let missing = privileges::missing()?;
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
        bail!(
            "missing {}: run as root, or give these capabilities",
            missing.join(", and ")
        );
    }
    let mut findings = features::needed();
    findings.extend(routes::check(config).await);
    findings.extend(steer_nets::check(config, own, false).await);
    findings.extend(filters::brief(config).await?);
    for finding in findings {
        match finding.status {
            Status::Ok => {}
            Status::Warn => tracing::warn!("{}", finding.text()),
            Status::Fail => tracing::error!("{}", finding.text()),
        }
    }
    Ok(())
}
