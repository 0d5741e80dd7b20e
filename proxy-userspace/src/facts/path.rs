//! From facts to a path, without asking the host anything.

use std::{collections::BTreeSet, net::SocketAddr};

use ipnet::IpNet;

use super::{Conntrack, Facts, Family, Firewall, Packets, Reached, Reason};
use crate::config::Service;

/// A rule that judged a service's packets and doesn't see them any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unseen {
    pub rule: String,
    pub accepts: bool,
}

impl Facts {
    /// Why `service` isn't direct for `family`; empty where it is.
    pub fn path(&self, service: &Service, family: Family) -> Vec<Reason> {
        if service.is_udp() {
            return self.datagrams_path(service, family);
        }
        let mut reasons = self.host_reasons(family);
        reasons.extend(self.target_reason(service, family));
        for packets in service.packets(family) {
            reasons.extend(self.ipsec_reason(packets));
            reasons.extend(self.firewall_reasons(packets));
        }
        // Two listen addresses may have the same.
        let mut unique: Vec<Reason> = Vec::new();
        for reason in reasons {
            if !unique.contains(&reason) {
                unique.push(reason);
            }
        }
        unique
    }

    /// The same of UDP, whose programs need little.
    fn datagrams_path(&self, service: &Service, family: Family) -> Vec<Reason> {
        let mut targets = service.targets();
        let has_target = targets.any(|target| family.has(&target.ip()));
        let switched_off = (!self.wanted).then_some(Reason::SwitchedOff);
        let no_target = (!has_target).then_some(Reason::NoTarget);
        switched_off.into_iter().chain(no_target).collect()
    }

    /// Rules that were made for a service's packets, where it is direct and they see none.
    pub fn unseen(&self, service: &Service, family: Family, balancers: &[IpNet]) -> Vec<Unseen> {
        if !self.path(service, family).is_empty() {
            return Vec::new();
        }
        let mut found = BTreeSet::new();
        for packets in service.packets(family) {
            let reached = self.reached_by(packets).into_iter();
            let named = reached.filter(|rule| rule.names(packets.port, balancers));
            found.extend(named.map(|rule| Unseen {
                rule: rule.text().to_owned(),
                accepts: rule.accepts(),
            }));
        }
        found.into_iter().collect()
    }

    /// Those that all services share.
    fn host_reasons(&self, family: Family) -> Vec<Reason> {
        let sysctls = &self.sysctls;
        let held = |holds: bool, reason: Reason| holds.then_some(reason);
        let rule = self.routing_rules.iter().find(|rule| rule.family == family);
        [
            held(!self.wanted, Reason::SwitchedOff),
            held(!self.kfunc, Reason::NoKfunc),
            held(!sysctls.syncookies, Reason::NoSyncookies),
            held(
                sysctls.conntrack == Conntrack::Strict,
                Reason::StrictConntrack,
            ),
            // IPv6 has none.
            held(sysctls.strict_lo && family == Family::V4, Reason::StrictLo),
            rule.map(|rule| Reason::PolicyRouting(rule.to_string())),
            self.vrfs.first().cloned().map(Reason::Vrf),
            held(
                !sysctls.forwards.of(family),
                Reason::NoForwarding(self.device.clone()),
            ),
            self.unreadable_firewall().map(Reason::FirewallUnreadable),
            self.nat(family).map(Reason::Nat),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Tables that only filter can't divert anything.
    fn unreadable_firewall(&self) -> Option<String> {
        let diverts = |table: &&String| *table != "filter" && *table != "security";
        if let Some(table) = self.sysctls.legacy_tables.iter().find(diverts) {
            return Some(format!("iptables-legacy has a table {table}"));
        }
        match &self.firewall {
            Firewall::Unreadable(why) => Some(why.clone()),
            Firewall::Known(_) => None,
        }
    }

    fn nat(&self, family: Family) -> Option<String> {
        match &self.firewall {
            Firewall::Known(ruleset) => ruleset.nat(family),
            Firewall::Unreadable(_) => None,
        }
    }

    fn target_reason(&self, service: &Service, family: Family) -> Option<Reason> {
        let mut targets = service.targets();
        match targets.find(|target| family.has(&target.ip())) {
            None => Some(Reason::NoTarget),
            Some(target) if !self.is_here(target) => Some(Reason::TargetBeyondHost(target)),
            Some(target) if self.multipath.contains(&target) => Some(Reason::MultipathApp(target)),
            Some(target) => {
                let bound = self.bound.get(&target)?;
                Some(Reason::BoundApp(target, bound.entrance.name.clone()))
            }
        }
    }

    /// Whether what listens at `target` is on this host.
    pub fn is_here(&self, target: SocketAddr) -> bool {
        target.ip().is_loopback() || self.here.contains(&target.ip())
    }

    fn ipsec_reason(&self, packets: Packets<'_>) -> Option<Reason> {
        let mut policies = self.ipsec.iter();
        let policy = policies.find(|policy| policy.is_about(packets))?;
        Some(Reason::Ipsec(policy.to_string()))
    }

    fn firewall_reasons(&self, packets: Packets<'_>) -> Vec<Reason> {
        let reason = |rule: Reached<'_>| {
            let text = || rule.text().to_owned();
            if rule.is_ingress() {
                Some(Reason::NetdevIngress(text()))
            } else {
                rule.changes_them().then(|| Reason::FirewallRule(text()))
            }
        };
        let reached = self.reached_by(packets).into_iter();
        reached.filter_map(reason).collect()
    }

    fn reached_by(&self, packets: Packets<'_>) -> Vec<Reached<'_>> {
        match &self.firewall {
            Firewall::Known(ruleset) => ruleset.reached_by(packets),
            Firewall::Unreadable(_) => Vec::new(),
        }
    }
}

impl Service {
    /// Whether balancers of `family` can reach it. A listener on `[::]` may hear IPv4 as well.
    pub fn hears(&self, family: Family) -> bool {
        self.packets(family).next().is_some()
    }

    fn packets(&self, family: Family) -> impl Iterator<Item = Packets<'static>> {
        self.listen.iter().filter_map(move |listen| {
            let address = listen.ip().to_canonical();
            let any = address.is_unspecified();
            let heard = family.has(&address) || (any && family == Family::V4);
            heard.then(|| Packets {
                family,
                transport: self.transport(),
                port: listen.port(),
                destination: (!any).then_some(address),
                device: None,
            })
        })
    }
}

impl Packets<'_> {
    /// Whether they may be to an address of `net`.
    pub(super) fn go_to(self, net: &IpNet) -> bool {
        match self.destination {
            Some(address) => net.contains(&address),
            None => self.family.has(&net.addr()),
        }
    }
}
