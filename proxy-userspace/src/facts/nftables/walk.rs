//! Which rules a service's packets may come by.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{Chain, Effect, Hook, Match, Packets, Rule, Ruleset};

/// A rule that may be about such packets.
#[derive(Clone, Copy, Debug)]
pub struct Reached<'a> {
    rule: &'a Rule,
    hook: Hook,
    /// Whether it, or a jump that leads to it, names the port.
    port_named: bool,
}

impl<'a> Reached<'a> {
    pub fn text(self) -> &'a str {
        &self.rule.text
    }

    /// Whether it does anything to them before the network layer has them.
    pub fn is_ingress(self) -> bool {
        self.hook == Hook::Ingress && self.rule.effect != Effect::Accepts && self.rule.is_last()
    }

    /// Whether it changes where they go, or how conntrack sees them. What every connection of the
    /// host is tracked by is no concern of this service's.
    pub fn changes_them(self) -> bool {
        match self.rule.effect {
            Effect::Redirects(_) => true,
            Effect::Tracks => self.port_named,
            Effect::Accepts | Effect::Refuses | Effect::Returns | Effect::Judges => false,
        }
    }

    /// Whether it is there for this port or for one of `balancers`.
    pub fn names(self, port: u16, balancers: &[IpNet]) -> bool {
        self.rule.names_port(port)
            || self.rule.matches.iter().any(|condition| match condition {
                Match::Source(source) => balancers.iter().any(|net| source.name_some_of(net)),
                _ => false,
            })
    }

    /// Whether packets may go on as if it weren't there.
    pub fn accepts(self) -> bool {
        self.rule.effect == Effect::Accepts
    }
}

impl Rule {
    /// Whether it does more than to lead to others.
    fn is_last(&self) -> bool {
        self.jumps.is_empty()
    }

    fn names_port(&self, port: u16) -> bool {
        self.matches.iter().any(|condition| match condition {
            Match::Port(ports) => !ports.negated && ports.include(&port),
            _ => false,
        })
    }
}

impl Ruleset {
    /// Each rule once for each way that leads to it.
    pub fn reached_by(&self, packets: Packets<'_>) -> Vec<Reached<'_>> {
        let mut walk = Walk {
            ruleset: self,
            packets,
            seen: HashSet::new(),
            reached: Vec::new(),
        };
        for chain in &self.chains {
            if let Some(hook @ (Hook::Ingress | Hook::Inbound)) = chain.hook {
                walk.follow(chain, hook, false);
            }
        }
        walk.reached
    }
}

struct Walk<'a, 'p> {
    ruleset: &'a Ruleset,
    packets: Packets<'p>,
    seen: HashSet<(*const Chain, bool, bool)>,
    reached: Vec<Reached<'a>>,
}

impl<'a> Walk<'a, '_> {
    fn follow(&mut self, chain: &'a Chain, hook: Hook, port_named: bool) {
        let new = (std::ptr::from_ref(chain), hook == Hook::Ingress, port_named);
        if !chain.id.is_for(self.packets.family) || !self.seen.insert(new) {
            return;
        }
        let packets = self.packets;
        for rule in chain.rules.iter().filter(|rule| rule.may_fit(packets)) {
            let port_named = port_named || rule.names_port(packets.port);
            self.reached.push(Reached {
                rule,
                hook,
                port_named,
            });
            for target in &rule.jumps {
                if let Some(next) = self.ruleset.sibling(chain, target) {
                    self.follow(next, hook, port_named);
                }
            }
        }
    }
}

impl Ruleset {
    pub(super) fn sibling(&self, chain: &Chain, name: &str) -> Option<&Chain> {
        let (family, table) = (&chain.id.family, &chain.id.table);
        self.chains
            .iter()
            .find(|it| it.id.name == name && it.id.family == *family && it.id.table == *table)
    }
}
