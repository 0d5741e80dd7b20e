//! What the rules make of clients' packets on their way to an application.

use std::collections::HashMap;

use super::{Chain, Effect, Hook, Match, Packets, Rule, Ruleset, fit::Fit};

/// Of jumps: firewalld has three, and the kernel takes sixteen.
pub(super) const DEPTH: u8 = 16;

/// A rule that refuses some clients, behind one that lets all of them in.
#[derive(Debug, PartialEq, Eq)]
pub struct LateBan<'a> {
    pub lets_in: &'a str,
    pub ban: &'a str,
}

/// What keeps every client out.
#[derive(Debug, PartialEq, Eq)]
pub enum Against<'a> {
    Rule(&'a str),
    /// Of a chain whose rules let nobody in.
    Policy,
}

impl Ruleset {
    /// A ban that no packet of `arrivals` meets any more.
    pub fn late_ban(&self, arrivals: Packets<'_>) -> Option<LateBan<'_>> {
        let mut judged = self.judged(arrivals);
        judged
            .find_map(|(_, judgement)| judgement.late_ban)
            .map(|[lets_in, ban]| LateBan {
                lets_in: &lets_in.text,
                ban: &ban.text,
            })
    }

    /// What drops `arrivals`, whoever they are from, and its chain.
    pub fn against(&self, arrivals: Packets<'_>) -> Option<(String, Against<'_>)> {
        let against = self.judged(arrivals).find_map(|(chain, judgement)| {
            let policy = chain.drops && judgement.lets_in.is_none();
            let refused = judgement.refuses.map(|rule| Against::Rule(&rule.text));
            Some((chain, refused.or(policy.then_some(Against::Policy))?))
        });
        against.map(|(chain, why)| (chain.id.to_string(), why))
    }

    fn judged<'a>(
        &'a self,
        arrivals: Packets<'_>,
    ) -> impl Iterator<Item = (&'a Chain, Judgement<'a>)> {
        let inbound = self.chains.iter().filter(move |chain| {
            chain.hook == Some(Hook::Inbound) && chain.id.is_for(arrivals.family)
        });
        inbound.map(move |chain| {
            let mut court = Court {
                ruleset: self,
                arrivals,
                known: HashMap::new(),
            };
            (chain, court.judge(chain, Way::default(), DEPTH))
        })
    }
}

/// How packets have come to a chain.
#[derive(Clone, Copy, Default)]
struct Way<'a> {
    /// The rule before it that lets them in: they never come.
    lets_in: Option<&'a Rule>,
    /// Whether only some sources come.
    by_source: bool,
}

#[derive(Clone, Copy, Default)]
struct Judgement<'a> {
    lets_in: Option<&'a Rule>,
    refuses: Option<&'a Rule>,
    /// And what lets in before it.
    late_ban: Option<[&'a Rule; 2]>,
}

struct Court<'a, 'p> {
    ruleset: &'a Ruleset,
    arrivals: Packets<'p>,
    /// Many rules may lead to one chain.
    known: HashMap<(*const Chain, bool, bool), Judgement<'a>>,
}

impl<'a> Court<'a, '_> {
    fn judge(&mut self, chain: &'a Chain, way: Way<'a>, depth: u8) -> Judgement<'a> {
        let key = (
            std::ptr::from_ref(chain),
            way.lets_in.is_some(),
            way.by_source,
        );
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let judgement = self.judge_rules(chain, way, depth);
        self.known.insert(key, judgement);
        judgement
    }

    fn judge_rules(&mut self, chain: &'a Chain, way: Way<'a>, depth: u8) -> Judgement<'a> {
        let mut judgement = Judgement {
            lets_in: way.lets_in,
            ..Judgement::default()
        };
        // Behind it no packet comes in this chain.
        let mut returns = None;
        for rule in &chain.rules {
            let fit = rule.fit(self.arrivals);
            if fit == Fit::Never {
                continue;
            }
            let passed = judgement.lets_in.or(returns);
            let by_source = way.by_source || rule.is_by_source();
            if let (Effect::Refuses, true, Some(lets_in)) = (rule.effect, by_source, passed) {
                judgement.late_ban = Some([lets_in, rule]);
                return judgement;
            }
            for target in rule.jumps.iter().filter(|_| depth > 0) {
                let next = self.ruleset.sibling(chain, target);
                let way = Way {
                    lets_in: passed,
                    by_source,
                };
                let next = next.map(|next| self.judge(next, way, depth - 1));
                let next = next.unwrap_or_default();
                if next.late_ban.is_some() {
                    return next;
                }
                if passed.is_none() && fit == Fit::Always {
                    judgement.lets_in = next.lets_in;
                    judgement.refuses = next.refuses;
                }
            }
            if passed.is_none() && fit == Fit::Always {
                match rule.effect {
                    Effect::Accepts => judgement.lets_in = Some(rule),
                    Effect::Refuses => judgement.refuses = Some(rule),
                    Effect::Returns => returns = Some(rule),
                    Effect::Judges | Effect::Redirects(_) | Effect::Tracks => {}
                }
                if rule.goes && judgement.lets_in.is_none() {
                    returns = Some(rule);
                }
            }
            if judgement.refuses.is_some() {
                return judgement;
            }
        }
        judgement
    }
}

impl Rule {
    fn is_by_source(&self) -> bool {
        let mut matches = self.matches.iter();
        matches.any(|condition| matches!(condition, Match::Source(_) | Match::SomeSources))
    }
}
