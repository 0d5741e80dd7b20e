//! Rules that give packets other addresses.

use ipnet::IpNet;

use super::{Chain, Effect, Hook, Match, Rule, Ruleset, clients::DEPTH};
use crate::{config::Transport, facts::Family};

/// What applications send from.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    pub net: IpNet,
    pub transport: Transport,
}

impl Ruleset {
    /// A chain that changes addresses of `family`, as `inet hide post`.
    pub fn nat(&self, family: Family) -> Option<String> {
        let mut nats = self.nats.iter();
        nats.find(|chain| chain.is_for(family))
            .map(ToString::to_string)
    }

    /// A chain that gives what leaves from there another source.
    pub fn renaming(&self, from: Sources) -> Option<String> {
        let family = Family::of(&from.net.addr());
        let renaming = self.chains.iter().find(|chain| {
            let mut rules = chain.rules.iter().take_while(|rule| !rule.spares(from));
            chain.hook == Some(Hook::Postrouting)
                && chain.id.is_for(family)
                && rules.any(|rule| self.renames(chain, rule, from, DEPTH))
        });
        renaming.map(|chain| chain.id.to_string())
    }

    fn renames(&self, chain: &Chain, rule: &Rule, from: Sources, depth: u8) -> bool {
        let mut jumps = rule.jumps.iter();
        rule.renames(from)
            || depth > 0
                && jumps.any(|target| {
                    let next = self.sibling(chain, target);
                    let rules = next.into_iter().flat_map(|next| &next.rules);
                    rules
                        .into_iter()
                        .any(|rule| self.renames(chain, rule, from, depth - 1))
                })
    }
}

impl Rule {
    fn renames(&self, from: Sources) -> bool {
        matches!(self.effect, Effect::Redirects(_)) && self.have(from)
    }

    /// Lets alone what comes from there, wherever it goes.
    fn spares(&self, from: Sources) -> bool {
        let of_sources = |it: &Match| matches!(it, Match::Source(_) | Match::Transport(_));
        matches!(self.effect, Effect::Accepts | Effect::Returns)
            && self.matches.iter().all(of_sources)
            && self.have(from)
    }

    fn have(&self, from: Sources) -> bool {
        self.matches.iter().all(|condition| match condition {
            Match::Source(sources) => sources.name_some_of(&from.net) != sources.negated,
            Match::Transport(transport) => *transport == from.transport,
            Match::Others => false,
            _ => true,
        })
    }
}
