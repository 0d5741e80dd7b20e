//! What an operator asks for.

use std::{collections::BTreeMap, process};

use anyhow::Result;
use serde::Serialize;

use super::{connections, control::Control, datagrams, reloads::What};
use crate::{
    admin::{self, Asked, ConnectionStatus, GuardStatus, Request, ServiceStatus, Status},
    config::Service,
    telemetry::Counts,
};

impl Control<'_> {
    pub fn answer(&mut self, Asked { request, reply }: Asked) {
        // Counts are of now, and who asks to end what is denied hears of all of it.
        if let Err(error) = self.look() {
            tracing::error!("{error:#}");
        }
        let answer = match request {
            Request::Status => serde_json::to_string(&self.status()),
            Request::Reload { dry_run } => {
                let what = if dry_run { What::DryRun } else { What::All };
                return self.reloads.ask(what, Some(reply));
            }
            Request::Drain { service, drained } => told(self.set_drained(service, drained)),
            Request::EndDenied => told(self.end_denied()),
            Request::Lists => serde_json::to_string(&admin::Lists {
                ids: self.lists.ids.clone(),
                pid: process::id(),
            }),
            Request::KeepLists => told(self.lists.keep()),
            Request::EndUnlisted { service } => told(self.end_unlisted(service)),
            Request::Connections => {
                let open = self.connections.iter();
                let daemon = open.map(|connection| connections::daemon(&connection));
                return reply.send_list(self.direct_connections().into_iter().chain(daemon));
            }
        };
        match answer {
            Ok(answer) => reply.send(answer),
            Err(error) => tracing::error!("answering {request:?}: {error}"),
        }
    }

    fn direct_connections(&self) -> Vec<ConnectionStatus> {
        let flows = self.direct.flows();
        let status = |flow| connections::direct(&self.direct.open(&self.names, flow), flow);
        let tcp = flows.iter().map(status);
        tcp.chain(self.datagrams.connections(&self.names)).collect()
    }

    fn status(&self) -> Status {
        let counts = |counts| serde_json::to_value::<Counts>(counts).unwrap_or_default();
        let kernel = self
            .counters
            .read()
            .map(|(name, count)| (name.to_owned(), count));
        let flows = self.datagrams.sums();
        let service = |service: &Service| ServiceStatus {
            name: service.name.clone(),
            listen: service.listen.clone(),
            targets: service.targets().collect(),
            drained: service.drained,
            shares_listen: service.shares_listen(),
            each: service.limits.into(),
            paths: self.direct.paths(service),
            clients: datagrams::clients(service, &flows),
            connections: match self.telemetry.counts(&service.name) {
                refused if service.is_udp() => refused.of_datagrams(),
                all => counts(all),
            },
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: self.config.instance.clone(),
            pid: process::id(),
            device: self.spoof.device.name.clone(),
            services: self.config.services.iter().map(service).collect(),
            guards: self.kernel.guarded().into_iter().map(guard).collect(),
            last_reload: self.reloads.last.clone(),
            limits: self.direct.limits(),
            connections: counts(self.telemetry.total()),
            kernel: BTreeMap::from_iter(kernel),
            log_lines_dropped: self.log.dropped(),
        }
    }
}

fn guard((device, guarded): (String, Result<&str, String>)) -> GuardStatus {
    GuardStatus {
        device,
        mode: guarded.as_deref().unwrap_or("none").into(),
        problem: guarded.err(),
    }
}

fn told<T: Serialize>(done: Result<T>) -> serde_json::Result<String> {
    serde_json::to_string(&done.map_err(|error| format!("{error:#}")))
}
