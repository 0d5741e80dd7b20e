//! Counts and logs what the relay reports.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

use tracing::field::debug;

use super::{
    burst::{Bursts, LeftOut},
    counts::{Counters, Counts},
};
use crate::header::KeptTlvs;
use crate::relay::{Balancer, Client, Connection, End, Report, Service, Target};

/// By service. Those that go while it runs stay: what was counted has happened.
pub struct Telemetry(RwLock<BTreeMap<String, Arc<Heard>>>);

/// What is known of one service.
#[derive(Default)]
struct Heard {
    counters: Counters,
    bursts: Mutex<Bursts>,
}

impl Telemetry {
    /// For the services of these names.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a str>) -> Self {
        let telemetry = Self(RwLock::default());
        telemetry.add(services);
        telemetry
    }

    /// For these as well.
    pub fn add<'a>(&self, services: impl IntoIterator<Item = &'a str>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for name in services {
            all.entry(name.to_owned()).or_default();
        }
    }

    fn all(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Heard>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, service: &str) -> Option<Arc<Heard>> {
        self.all().get(service).cloned()
    }

    pub fn counts(&self, service: &str) -> Counts {
        let heard = self.of(service);
        heard.map(|heard| heard.counters.read()).unwrap_or_default()
    }

    /// Over all services.
    pub fn total(&self) -> Counts {
        self.all().values().map(|heard| heard.counters.read()).sum()
    }

    /// A connection that the kernel has made by itself.
    pub fn direct_opened(
        &self,
        service: &str,
        balancer: Balancer,
        client: Client,
        target: Target,
        tlvs: &KeptTlvs,
    ) {
        self.count_of(service, |counters| {
            counters.accepted();
            counters.opened(true);
        });
        let left_out = tlvs.left_out();
        let tlvs_left_out = (left_out > 0).then_some(left_out);
        let tlvs = tlvs.view();
        let tlvs = (!tlvs.is_empty()).then(|| debug(tlvs));
        tracing::debug!(
            service, %balancer, %client, %target, path = "direct", tlvs, tlvs_left_out, "connected"
        );
    }

    /// One that was open when this daemon came.
    pub fn direct_taken_over(&self, service: &str) {
        self.count_of(service, Counters::taken_over);
    }

    pub fn direct_closed(&self, service: &str, balancer: Balancer, up: u64, down: u64) {
        self.direct_ended(service, balancer, &End::Closed { up, down });
    }

    pub fn direct_reset(&self, service: &str, balancer: Balancer) {
        let error = io::ErrorKind::ConnectionReset.into();
        self.direct_ended(service, balancer, &End::Reset(error));
    }

    /// Balancers have shaken hands, and nothing has come of it within the header timeout.
    pub fn withheld(&self, handshakes: u64) {
        let end = End::HeaderTimeout { bytes: 0 };
        let hint = end.hint().unwrap_or_default();
        tracing::warn!(
            reason = end.name(),
            "{handshakes} handshakes without a header within the header timeout; hint: {hint}"
        );
    }

    fn direct_ended(&self, service: &str, balancer: Balancer, end: &End) {
        self.count_of(service, |counters| counters.ended(end.name()));
        tracing::debug!(service, %balancer, path = "direct", reason = end.name(), "{end}");
    }

    fn count(&self, service: &Service, count: impl FnOnce(&Counters)) {
        self.count_of(&service.name, count);
    }

    fn count_of(&self, service: &str, count: impl FnOnce(&Counters)) {
        if let Some(heard) = self.of(service) {
            count(&heard.counters);
        }
    }

    /// Whether to warn of this now.
    fn burst(&self, service: &Service, what: &'static str, from: Balancer) -> Option<LeftOut> {
        let heard = self.of(&service.name)?;
        let mut bursts = lock(&heard.bursts);
        bursts.say((what, from.0.ip()), Instant::now())
    }

    fn warn(&self, service: &Service, balancer: Balancer, end: &End) {
        let reason = end.name();
        // With a hint it is something else than without, and not to be hidden by it.
        let what = end.hint().unwrap_or(reason);
        let Some(left_out) = self.burst(service, what, balancer) else {
            return;
        };
        let service = &service.name;
        match end.hint() {
            None => tracing::warn!(service, %balancer, reason, "{end}{left_out}"),
            Some(hint) => {
                tracing::warn!(service, %balancer, reason, "{end}{left_out}; hint: {hint}");
            }
        }
    }
}

/// A panic elsewhere can't leave bursts in a state that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Report for Telemetry {
    fn accepted(&self, service: &Service, balancer: Balancer) {
        self.count(service, Counters::accepted);
        tracing::trace!(service = service.name, %balancer, "accepted");
    }

    fn opened(&self, connection: &Connection) {
        let Connection {
            service,
            balancer,
            client,
            target,
            spoofed,
            header,
            ..
        } = connection;
        self.count(service, |counters| counters.opened(*spoofed));
        let (version, command) = (header.version, header.command);
        let tlvs = header.tlvs.view();
        let tlvs = (!tlvs.is_empty()).then(|| debug(tlvs));
        let left_out = header.tlvs.left_out();
        let tlvs_left_out = (left_out > 0).then_some(left_out);
        tracing::debug!(
            service = service.name, %balancer, %client, %target, spoofed, %version, %command,
            tlvs, tlvs_left_out, "connected"
        );
    }

    fn port_busy(&self, service: &Service, client: Client) {
        self.count(service, Counters::port_busy);
        tracing::debug!(service = service.name, %client, "port is busy: another one is taken");
    }

    fn ended(&self, service: &Service, balancer: Balancer, end: &End) {
        self.count(service, |counters| counters.ended(end.name()));
        if end.is_normal() {
            tracing::debug!(service = service.name, %balancer, reason = end.name(), "{end}");
        } else {
            self.warn(service, balancer, end);
        }
    }

    fn accept_failed(&self, service: &Service, error: &io::Error) {
        self.count(service, Counters::accept_failed);
        // Nobody's fault but this host's.
        let nobody = Balancer((Ipv4Addr::UNSPECIFIED, 0).into());
        if let Some(left_out) = self.burst(service, "accept_failed", nobody) {
            tracing::warn!(service = service.name, "can't accept: {error}{left_out}");
        }
    }
}
