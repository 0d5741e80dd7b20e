//! `truepeer run`: from what was typed to what is meant.

use std::{
    num::NonZeroUsize,
    process::ExitCode,
    sync::{Arc, LazyLock},
    thread,
};

use anyhow::Result;

use super::{
    args::{self, FallbackChoice, HeaderVersions, RunArgs},
    file,
};
use crate::{
    app,
    config::{
        CloseAfter, Config, ConfigError, HeaderOptions, MAX_CLIENTS, PrefixSource, Protocol,
        Service, ring_sizes,
    },
    header::{Policy, Versions},
    netns::SteerNets,
    relay::{ClientPolicy, udp::Framing},
    telemetry,
};

pub fn run(args: RunArgs) -> Result<ExitCode> {
    let log = telemetry::init(args.verbose)?;
    if args.mark.is_some() {
        tracing::info!("--mark is not needed: replies are steered without rules");
    }
    if args.close_after.is_some() && args.protocol == args::Protocol::Tcp {
        tracing::info!("--close-after does nothing: TCP connections end by themselves");
    }
    let given = [
        ("--maxconn", args.maxconn),
        ("--maxconn-per-balancer", args.each.maxconn_per_balancer),
    ];
    let is_udp = args.protocol == args::Protocol::Udp;
    for (flag, wanted) in given.into_iter().filter(|_| is_udp) {
        if let Some(wanted) = wanted.filter(|wanted| wanted.get() > MAX_CLIENTS as usize) {
            tracing::warn!(
                "{flag} {wanted} is cut to {MAX_CLIENTS}, which UDP's table has room for"
            );
        }
    }
    let again = move || config(args.clone());
    app::run(again()?, Arc::new(again), &log)?;
    Ok(ExitCode::SUCCESS)
}

fn protocol(args: &RunArgs) -> Result<Protocol, ConfigError> {
    let framing = match (args.protocol, args.header) {
        (args::Protocol::Tcp, HeaderVersions::V2First) => {
            return Err(ConfigError::HeaderOfUdp("v2-first"));
        }
        (args::Protocol::Tcp, HeaderVersions::Spp) => return Err(ConfigError::HeaderOfUdp("spp")),
        (args::Protocol::Tcp, _) => return Ok(Protocol::Tcp),
        (args::Protocol::Udp, HeaderVersions::V1) => return Err(ConfigError::HeaderOfTcp),
        (args::Protocol::Udp, HeaderVersions::Any | HeaderVersions::V2) => Framing::V2,
        (args::Protocol::Udp, HeaderVersions::V2First) => Framing::V2First,
        (args::Protocol::Udp, HeaderVersions::Spp) => Framing::Spp,
    };
    for (flag, choice) in [
        ("--on-no-target", args.on_no_target),
        ("--on-martian", args.on_martian),
    ] {
        if choice == FallbackChoice::Unspoofed {
            return Err(ConfigError::UnspoofedUdp(flag));
        }
    }
    Ok(Protocol::Udp {
        framing,
        close_after: args.close_after.unwrap_or(CloseAfter::MINUTE),
        sizes: ring_sizes(args.maxconn, args.each.maxconn_per_balancer),
    })
}

/// UDP has no v1, which is refused by a word of its own.
const fn versions(protocol: Protocol, header: HeaderVersions) -> Versions {
    match (protocol, header) {
        (Protocol::Tcp, HeaderVersions::V1) => Versions::V1,
        (Protocol::Tcp, HeaderVersions::V2) => Versions::V2,
        _ => Versions::Any,
    }
}

/// By flags, or by a file.
pub fn config(args: RunArgs) -> Result<Config, ConfigError> {
    match &args.config {
        Some(path) => {
            let config = file::read(path)?;
            Ok(Config {
                take_over: args.take_over,
                instance: args.instance.unwrap_or(config.instance),
                ..config
            })
        }
        None => {
            let config = resolve(args)?;
            config.check()?;
            Ok(config)
        }
    }
}

pub fn resolve(args: RunArgs) -> Result<Config, ConfigError> {
    let protocol = protocol(&args)?;
    let service = Service {
        name: "default".into(),
        protocol,
        outsiders: args.outsiders,
        id: 0,
        drained: false,
        guard: args.guard,
        listen: args.listen,
        target4: args.target4,
        target6: args.target6,
        allow: PrefixSource {
            prefixes: args.allow,
            files: args.allow_file,
        },
        allow_state: args.allow_state,
        deny: PrefixSource {
            prefixes: args.deny,
            files: args.deny_file,
        },
        header: HeaderOptions {
            policy: Policy {
                versions: versions(protocol, args.header),
                max_len: args.header_max_len,
            },
            timeout: args.header_timeout,
        },
        clients: ClientPolicy {
            on_local: args.on_local.into(),
            on_no_target: args.on_no_target.into(),
            on_martian: args.on_martian.into(),
        },
        limits: args.each.limits(protocol != Protocol::Tcp),
        connect_timeout: args.connect_timeout,
    };
    Ok(Config {
        instance: args.instance.unwrap_or_else(|| "default".into()),
        workers: args.workers.unwrap_or_else(one_per_core),
        // UDP's is the service's.
        maxconn: args.maxconn.filter(|_| protocol == Protocol::Tcp),
        drain_timeout: args.drain_timeout,
        orphan_timeout: args.orphan_timeout,
        status_group: args.status_group,
        take_over: args.take_over,
        direct: args.direct,
        steer: SteerNets {
            v4: args.steer4,
            v6: args.steer6,
        },
        services: vec![service],
    })
}

/// The same for each service.
fn one_per_core() -> NonZeroUsize {
    static CORES: LazyLock<NonZeroUsize> =
        LazyLock::new(|| thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    *CORES
}
