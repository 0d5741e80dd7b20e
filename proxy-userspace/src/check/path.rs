//! Which path each service takes, and which firewall rules don't see it any more.

use super::Finding;
use crate::{
    config::{Config, Service, Transport},
    facts::{self, Facts, Family, Reason, Unseen},
    kernel,
};

const SUBJECT: &str = "path";

/// `device` is truepeer's own, or one that is as its would be.
pub async fn check(config: &Config, device: &str) -> Vec<Finding> {
    let facts = match facts::read(config, device, kernel::has_reqsk_kfunc()).await {
        Ok(facts) => facts,
        Err(error) => {
            let next = "connections are served, whichever path they take";
            return vec![Finding::warn(SUBJECT, format!("unknown: {error:#}"), next)];
        }
    };
    let services = config.services.iter();
    services
        .flat_map(|service| of_service(&facts, service))
        .collect()
}

fn of_service(facts: &Facts, service: &Service) -> Vec<Finding> {
    // Without an allowlist there is no check.
    let balancers = service.allow.read().unwrap_or_default();
    let heard = Family::BOTH.into_iter().filter(|it| service.hears(*it));
    let findings = heard.flat_map(|family| {
        let unseen = facts.unseen(service, family, &balancers);
        let unseen = unseen
            .into_iter()
            .map(move |rule| blind(service.transport(), family, rule));
        [path(facts, service, family)].into_iter().chain(unseen)
    });
    findings
        .map(|finding| finding.of(&service.name, None))
        .collect()
}

fn path(facts: &Facts, service: &Service, family: Family) -> Finding {
    let reasons = facts.path(service, family);
    if reasons.is_empty() {
        return Finding::ok(SUBJECT, format!("{family} is direct"));
    }
    let why: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    let message = format!("{family} goes by the daemon: {}", why.join("; "));
    let remedies: Vec<_> = reasons.iter().filter_map(Reason::remedy).collect();
    let asked_for = |reason: &Reason| matches!(reason, Reason::SwitchedOff | Reason::NoTarget);
    if reasons.iter().any(asked_for) {
        Finding::ok(SUBJECT, message)
    } else if remedies.is_empty() {
        Finding::warn(
            SUBJECT,
            message,
            "nothing has to be done: it is slower, not worse",
        )
    } else {
        Finding::warn(SUBJECT, message, remedies.join("; "))
    }
}

/// The programs take a balancer's packets before netfilter.
fn blind(transport: Transport, family: Family, Unseen { rule, accepts }: Unseen) -> Finding {
    let (one, all) = match transport {
        Transport::Tcp => ("direct connection", "connections"),
        Transport::Udp => ("datagram", "datagrams"),
    };
    let next = if accepts {
        &format!("leave it: it lets {all} in that go by the daemon")
    } else {
        "have --allow name the balancers alone and make the rule one for the application's port, or use --direct off"
    };
    Finding::warn(
        "firewall",
        format!("this rule sees no {one} of {family}: {rule}"),
        next,
    )
}
