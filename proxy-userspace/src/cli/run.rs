//! `truepeer run`: from what was typed to what is meant.

use std::{num::NonZeroUsize, process::ExitCode, thread};

use anyhow::Result;

use super::args::{Protocol, RunArgs};
use crate::{
    app,
    config::{Config, HeaderOptions, PrefixSource, Service},
    header::Policy,
    netns::SteerNets,
    relay::ClientPolicy,
    telemetry,
};

pub fn run(args: RunArgs) -> Result<ExitCode> {
    let log = telemetry::init(args.verbose)?;
    if args.mark.is_some() {
        tracing::info!("--mark is not needed: replies are steered without rules");
    }
    if args.close_after.is_some() {
        tracing::info!("--close-after does nothing: TCP connections end by themselves");
    }
    app::run(&resolve(args), &log)?;
    Ok(ExitCode::SUCCESS)
}

pub fn resolve(args: RunArgs) -> Config {
    let Protocol::Tcp = args.protocol;
    let service = Service {
        name: "default".into(),
        id: 0,
        listen: args.listen,
        target4: args.target4,
        target6: args.target6,
        allow: PrefixSource {
            prefixes: args.allow,
            files: args.allow_file,
        },
        deny: PrefixSource {
            prefixes: args.deny,
            files: args.deny_file,
        },
        header: HeaderOptions {
            policy: Policy {
                versions: args.header.into(),
                max_len: args.header_max_len,
            },
            timeout: args.header_timeout,
        },
        clients: ClientPolicy {
            on_local: args.on_local.into(),
            on_no_target: args.on_no_target.into(),
            on_martian: args.on_martian.into(),
        },
        connect_timeout: args.connect_timeout,
    };
    Config {
        instance: args.instance.instance,
        workers: args.workers.unwrap_or_else(one_per_core),
        maxconn: args.maxconn,
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
    }
}

fn one_per_core() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
