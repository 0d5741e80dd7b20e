//! Rules that give packets other addresses.

use ipnet::IpNet;

use super::{Chain, Effect, Hook, Match, Rule, Ruleset, clients::DEPTH};
use crate::facts::Family;

impl Ruleset {
    /// A chain that changes addresses of `family`, as `inet hide post`.
    pub fn nat(&self, family: Family) -> Option<String> {
        let mut nats = self.nats.iter();
        nats.find(|chain| chain.is_for(family))
            .map(ToString::to_string)
    }

    /// A chain that gives what leaves from `net` another source.
    pub fn renaming(&self, net: &IpNet) -> Option<String> {
        let family = Family::of(&net.addr());
        let renaming = self.chains.iter().find(|chain| {
            let mut rules = chain.rules.iter().take_while(|rule| !rule.spares(net));
            chain.hook == Some(Hook::Postrouting)
                && chain.id.is_for(family)
                && rules.any(|rule| self.renames(chain, rule, net, DEPTH))
        });
        renaming.map(|chain| chain.id.to_string())
    }

    fn renames(&self, chain: &Chain, rule: &Rule, net: &IpNet, depth: u8) -> bool {
        let mut jumps = rule.jumps.iter();
        rule.renames(net)
            || depth > 0
                && jumps.any(|target| {
                    let next = self.sibling(chain, target);
                    let rules = next.into_iter().flat_map(|next| &next.rules);
                    rules
                        .into_iter()
                        .any(|rule| self.renames(chain, rule, net, depth - 1))
                })
    }
}

impl Rule {
    fn renames(&self, net: &IpNet) -> bool {
        matches!(self.effect, Effect::Redirects(_)) && self.sources_have(net)
    }

    /// Lets alone what comes from `net`, wherever it goes.
    fn spares(&self, net: &IpNet) -> bool {
        let of_sources = |it: &Match| matches!(it, Match::Source(_));
        matches!(self.effect, Effect::Accepts | Effect::Returns)
            && self.matches.iter().all(of_sources)
            && self.sources_have(net)
    }

    fn sources_have(&self, net: &IpNet) -> bool {
        self.matches.iter().all(|condition| match condition {
            Match::Source(sources) => sources.name_some_of(net) != sources.negated,
            _ => true,
        })
    }
}
