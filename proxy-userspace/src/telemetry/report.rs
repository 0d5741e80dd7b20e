//! Counts and logs what the relay reports.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use serde::Serialize;

use super::burst::Bursts;
use crate::relay::{Balancer, Client, End, Opened, Report, Service, Weight};

#[derive(Default)]
pub struct Telemetry {
    accepted: AtomicU64,
    opened: AtomicU64,
    port_busy: AtomicU64,
    accept_failed: AtomicU64,
    ended: Mutex<BTreeMap<&'static str, u64>>,
    bursts: Mutex<Bursts>,
}

/// Connections since the start.
#[derive(Debug, Serialize)]
pub struct Counts {
    pub accepted: u64,
    /// Accepted and not ended yet.
    pub open: u64,
    /// Those that the application accepted.
    pub opened: u64,
    /// Those that came from another port than the client's.
    pub port_busy: u64,
    pub accept_failed: u64,
    /// By how they ended.
    pub ended: BTreeMap<&'static str, u64>,
}

impl Telemetry {
    pub fn counts(&self) -> Counts {
        let ended = lock(&self.ended).clone();
        let accepted = self.accepted.load(Relaxed);
        Counts {
            accepted,
            open: accepted.saturating_sub(ended.values().sum()),
            opened: self.opened.load(Relaxed),
            port_busy: self.port_busy.load(Relaxed),
            accept_failed: self.accept_failed.load(Relaxed),
            ended,
        }
    }

    fn warn(&self, service: &Service, balancer: Balancer, end: &End) {
        let key = (end.name(), balancer.0.ip());
        let Some(left_out) = lock(&self.bursts).say(key, Instant::now()) else {
            return;
        };
        let again = again(left_out);
        let reason = end.name();
        tracing::warn!(service = service.name, %balancer, reason, "{end}{again}");
    }
}

fn again(left_out: u64) -> String {
    match left_out {
        0 => String::new(),
        n => format!(" ({n} more like this since it was last said)"),
    }
}

/// A panic elsewhere can't leave counts in a state that matters.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Report for Telemetry {
    fn accepted(&self, service: &Service, balancer: Balancer) {
        self.accepted.fetch_add(1, Relaxed);
        tracing::trace!(service = service.name, %balancer, "accepted");
    }

    fn opened(&self, service: &Service, opened: &Opened) {
        self.opened.fetch_add(1, Relaxed);
        let Opened {
            balancer,
            client,
            target,
            spoofed,
        } = opened;
        tracing::debug!(service = service.name, %balancer, %client, %target, spoofed, "connected");
    }

    fn port_busy(&self, service: &Service, client: Client) {
        self.port_busy.fetch_add(1, Relaxed);
        tracing::debug!(service = service.name, %client, "port is busy: another one is taken");
    }

    fn ended(&self, service: &Service, balancer: Balancer, end: &End) {
        *lock(&self.ended).entry(end.name()).or_default() += 1;
        match end.weight() {
            Weight::Normal => {
                tracing::debug!(service = service.name, %balancer, reason = end.name(), "{end}");
            }
            Weight::Notable => self.warn(service, balancer, end),
        }
    }

    fn accept_failed(&self, service: &Service, error: &io::Error) {
        self.accept_failed.fetch_add(1, Relaxed);
        let key = ("accept_failed", std::net::Ipv4Addr::UNSPECIFIED.into());
        if let Some(left_out) = lock(&self.bursts).say(key, Instant::now()) {
            let again = again(left_out);
            tracing::warn!(service = service.name, "can't accept: {error}{again}");
        }
    }
}
