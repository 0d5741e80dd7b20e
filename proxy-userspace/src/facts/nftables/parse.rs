//! From nft's JSON to the rules that matter.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Chain, ChainId, Effect, Hook, Match, Rule, Ruleset,
    fields::{field, list, text, unwrapped},
};

/// Named sets and maps, by table and name.
type Sets<'a> = HashMap<(&'a str, &'a str, &'a str), &'a Value>;

impl Ruleset {
    pub fn parse(json: &Value) -> Self {
        let objects = list(&json["nftables"]);
        let sets = objects.iter().filter_map(set).collect();
        let chains = objects.iter().filter_map(|object| object.get("chain"));
        let mut ruleset = Self {
            chains: chains.filter_map(chain).collect(),
            nats: nats(objects),
        };
        for rule in objects.iter().filter_map(|object| object.get("rule")) {
            let id = id(rule, "chain");
            let chain = ruleset.chains.iter_mut().find(|chain| chain.id == id);
            if let Some(chain) = chain {
                chain.rules.extend(rules(rule, &id, &sets));
            }
        }
        ruleset
    }

    /// Replaces the handles that rules were parsed with by what `nft -a` prints for them.
    pub fn with_texts(mut self, listed: &str) -> Self {
        let (mut table, mut chain) = ("", String::new());
        let mut texts = HashMap::new();
        for line in listed.lines().map(str::trim) {
            let Some((text, handle)) = line.rsplit_once(" # handle ") else {
                continue;
            };
            let opened = text.strip_suffix(" {");
            if let Some(name) = opened.and_then(|text| text.strip_prefix("table ")) {
                table = name;
            } else if let Some(name) = opened.and_then(|text| text.strip_prefix("chain ")) {
                chain = format!("{table} {name}");
            } else {
                texts.insert(format!("{chain} handle {handle}"), text);
            }
        }
        for chain in &mut self.chains {
            let shown = chain.id.to_string();
            for rule in &mut chain.rules {
                if let Some(text) = texts.get(&rule.text) {
                    rule.text = format!("{shown}: {text}");
                }
            }
        }
        self
    }
}

impl std::fmt::Display for ChainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.name)
    }
}

fn id(object: &Value, name: &str) -> ChainId {
    ChainId {
        family: text(object, "family").into(),
        table: text(object, "table").into(),
        name: text(object, name).into(),
    }
}

fn chain(chain: &Value) -> Option<Chain> {
    let hook = match chain.get("hook").and_then(Value::as_str) {
        None => None,
        Some("ingress") => Some(Hook::Ingress),
        Some("prerouting" | "input") => Some(Hook::Inbound),
        Some("postrouting") => Some(Hook::Postrouting),
        Some(_) => return None,
    };
    matches!(text(chain, "family"), "ip" | "ip6" | "inet" | "netdev").then(|| Chain {
        id: id(chain, "name"),
        hook,
        drops: text(chain, "policy") == "drop",
        rules: Vec::new(),
    })
}

fn set(object: &Value) -> Option<((&str, &str, &str), &Value)> {
    let set = object.get("set").or_else(|| object.get("map"))?;
    let key = (text(set, "family"), text(set, "table"), text(set, "name"));
    Some((key, set.get("elem").unwrap_or(&Value::Null)))
}

/// One, or one for each verdict of a map.
fn rules(rule: &Value, id: &ChainId, sets: &Sets<'_>) -> Vec<Rule> {
    let reading = Reading { id, sets };
    let mut whole = Rule {
        text: format!("{id} handle {}", rule["handle"]),
        matches: Vec::new(),
        effect: Effect::Judges,
        jumps: Vec::new(),
        goes: false,
    };
    let mut verdicts = Vec::new();
    for statement in list(&rule["expr"]) {
        if let Some(condition) = statement.get("match") {
            whole.matches.extend(reading.condition(condition));
        } else if let Some(map) = statement.get("vmap") {
            verdicts.extend(reading.verdicts(map));
        } else {
            whole.apply(statement);
            whole.matches.extend(reading.looked_up(statement));
            whole.matches.extend(implied(statement));
        }
    }
    if verdicts.is_empty() {
        return vec![whole];
    }
    let one = |(matches, verdict): (Vec<Match>, &Value)| {
        let mut rule = whole.clone();
        rule.matches.extend(matches);
        rule.apply(verdict);
        rule
    };
    verdicts.into_iter().map(one).collect()
}

/// A chain without rules changes nothing, and has no conntrack either.
fn nats(objects: &[Value]) -> Vec<ChainId> {
    let rules = || objects.iter().filter_map(|object| object.get("rule"));
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    let nats = chains.filter(|chain| chain["type"] == "nat");
    nats.map(|chain| id(chain, "name"))
        .filter(|nat| rules().any(|rule| id(rule, "chain") == *nat))
        .collect()
}

impl Rule {
    fn apply(&mut self, statement: &Value) {
        for jump in ["jump", "goto"] {
            let target = statement[jump]["target"].as_str();
            self.jumps.extend(target.map(str::to_owned));
        }
        self.goes |= statement.get("goto").is_some();
        if let Some(effect) = effect(statement) {
            self.effect = effect;
        }
    }
}

fn effect(statement: &Value) -> Option<Effect> {
    let (name, argument) = statement.as_object()?.iter().next()?;
    match &**name {
        "accept" => Some(Effect::Accepts),
        "drop" | "reject" => Some(Effect::Refuses),
        "return" => Some(Effect::Returns),
        "dnat" | "snat" | "redirect" | "masquerade" | "tproxy" | "synproxy" => {
            let port = argument["port"].as_u64();
            Some(Effect::Redirects(
                port.and_then(|port| port.try_into().ok()),
            ))
        }
        "notrack" => Some(Effect::Tracks),
        "mangle" if argument["key"]["ct"]["key"] == "mark" => Some(Effect::Tracks),
        // Of iptables-nft, whose targets nft knows by name only.
        "xt" => match text(argument, "name") {
            "DNAT" | "SNAT" | "REDIRECT" | "MASQUERADE" | "TPROXY" | "SYNPROXY" | "NETMAP" => {
                Some(Effect::Redirects(None))
            }
            "CT" | "CONNMARK" | "NOTRACK" => Some(Effect::Tracks),
            "REJECT" => Some(Effect::Refuses),
            _ => None,
        },
        _ => None,
    }
}

/// What statements ask of a packet that are no match to nft.
fn implied(statement: &Value) -> Option<Match> {
    let (name, argument) = statement.as_object()?.iter().next()?;
    match &**name {
        "limit" | "quota" | "ct count" | "meter" | "set" => Some(Match::Unknown),
        "xt" if argument["type"] == "match" => match text(argument, "name") {
            "comment" => None,
            "set" | "iprange" | "recent" | "geoip" => Some(Match::SomeSources),
            _ => Some(Match::Unknown),
        },
        _ => None,
    }
}

/// A rule's statements with what they may refer to.
struct Reading<'a> {
    id: &'a ChainId,
    sets: &'a Sets<'a>,
}

impl<'a> Reading<'a> {
    fn condition(&self, condition: &'a Value) -> Vec<Match> {
        let negated = match text(condition, "op") {
            "==" | "in" => false,
            "!=" => true,
            _ => return vec![Match::Unknown],
        };
        self.fields(
            &condition["left"],
            self.elements(&condition["right"]),
            negated,
        )
    }

    /// The map's keys, each with its verdict.
    fn verdicts(&self, map: &'a Value) -> Vec<(Vec<Match>, &'a Value)> {
        let verdict = |pair: &'a Value| {
            let [key, verdict] = list(pair) else {
                return None;
            };
            Some((self.fields(&map["key"], vec![key], false), verdict))
        };
        let pairs = self.elements(&map["data"]);
        pairs.into_iter().filter_map(verdict).collect()
    }

    /// `dnat to tcp dport map { 443 : 127.0.0.1 }` is for the keys of the map alone.
    fn looked_up(&self, statement: &'a Value) -> Vec<Match> {
        let argument = statement.as_object().and_then(|it| it.values().next());
        let map = argument.and_then(|it| ["addr", "port"].iter().find_map(|to| it[to].get("map")));
        let Some(map) = map else {
            return Vec::new();
        };
        let pairs = self.elements(&map["data"]);
        let keys = pairs.into_iter().filter_map(|pair| list(pair).first());
        self.fields(&map["key"], keys.collect(), false)
    }

    /// The values that a set has, written out or named; or the one value.
    fn elements(&self, value: &'a Value) -> Vec<&'a Value> {
        if let Some(set) = value.get("set") {
            return list(set).iter().collect();
        }
        let named = value.as_str().and_then(|name| name.strip_prefix('@'));
        match named {
            None => vec![value],
            Some(name) => {
                let key = (&*self.id.family, &*self.id.table, name);
                list(self.sets.get(&key).copied().unwrap_or(&Value::Null))
                    .iter()
                    .collect()
            }
        }
    }

    /// Of a concatenation each field by itself: that fits more than it says, never less.
    fn fields(&self, left: &Value, values: Vec<&Value>, negated: bool) -> Vec<Match> {
        let Some(parts) = left.get("concat") else {
            return field(left, &values, negated);
        };
        if negated {
            return vec![Match::Unknown];
        }
        let is_exact = values.len() == 1;
        let part = |(index, left): (usize, &Value)| {
            let values: Option<Vec<&Value>> = values
                .iter()
                .map(|value| list(&unwrapped(value)["concat"]).get(index))
                .collect();
            values.map_or_else(
                || vec![Match::Unknown],
                |values| field(left, &values, false),
            )
        };
        let parts = list(parts).iter().enumerate().flat_map(part);
        parts.chain((!is_exact).then_some(Match::Unknown)).collect()
    }
}
