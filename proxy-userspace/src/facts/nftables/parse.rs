//! From nft's JSON to the rules that matter.

use std::{collections::HashMap, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use serde_json::Value;

use super::{Chain, ChainId, Devices, Effect, Hook, Match, Rule, Ruleset, Values};
use crate::facts::Family;

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

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
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
            "set" => Some(Match::IpSet),
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

/// What it asks of a packet; nothing, where each that begins a connection of TCP has it.
fn field(left: &Value, values: &[&Value], negated: bool) -> Vec<Match> {
    let payload = &left["payload"];
    let is_v6 = payload["protocol"] == "ip6";
    let family = Match::Family(if is_v6 { Family::V6 } else { Family::V4 });
    match (text(payload, "protocol"), text(payload, "field")) {
        ("tcp" | "th", "dport") => vec![one_of(values, negated, Match::Port)],
        ("ip" | "ip6", "saddr") => vec![one_of(values, negated, Match::Source)],
        ("ip" | "ip6", "daddr") => vec![one_of(values, negated, Match::Destination)],
        ("ip", "protocol") | ("ip6", "nexthdr") => {
            [family].into_iter().chain(tcp(values, negated)).collect()
        }
        ("ip" | "ip6", "version") => vec![family],
        ("ip" | "ip6", _) => vec![family, Match::Unknown],
        ("udp" | "udplite" | "icmp" | "icmpv6" | "sctp" | "dccp" | "esp" | "ah" | "arp", _) => {
            vec![Match::Others]
        }
        ("", _) => beyond_the_packet(left, values, negated)
            .into_iter()
            .collect(),
        _ => vec![Match::Unknown],
    }
}

/// What isn't in the packet itself.
fn beyond_the_packet(left: &Value, values: &[&Value], negated: bool) -> Option<Match> {
    let has = |value: &str| {
        values
            .iter()
            .any(|it| **it == value || list(it).contains(&value.into()))
    };
    if left["ct"]["key"] == "state" {
        return (has("new") == negated).then_some(Match::Unknown);
    }
    if left["fib"]["result"] == "type" && left["fib"]["flags"] == "daddr" {
        return (has("local") == negated).then_some(Match::Unknown);
    }
    match text(&left["meta"], "key") {
        "l4proto" => tcp(values, negated),
        "iif" | "iifname" => Some(devices(values.iter().map(|it| it.as_str()), negated)),
        "iiftype" => {
            let loopback = |it: &&Value| (**it == "loopback").then_some("lo");
            Some(devices(values.iter().map(loopback), negated))
        }
        "nfproto" | "protocol" => {
            let (v4, v6) = (has("ipv4") || has("ip"), has("ipv6") || has("ip6"));
            match (v4 != negated, v6 != negated) {
                (true, true) => None,
                (true, false) => Some(Match::Family(Family::V4)),
                (false, true) => Some(Match::Family(Family::V6)),
                (false, false) => Some(Match::Others),
            }
        }
        _ => Some(Match::Unknown),
    }
}

fn devices<'a>(names: impl Iterator<Item = Option<&'a str>>, negated: bool) -> Match {
    let names: Option<Vec<_>> = names.map(|name| name.map(str::to_owned)).collect();
    names.map_or(Match::Unknown, |names| {
        Match::Device(Devices { names, negated })
    })
}

/// Nothing, where TCP is among them.
fn tcp(values: &[&Value], negated: bool) -> Option<Match> {
    const TCP: u64 = 6;
    let is_tcp = |value: &&Value| **value == "tcp" || value.as_u64() == Some(TCP);
    if !values.iter().all(|it| it.is_string() || it.is_u64()) {
        return Some(Match::Unknown);
    }
    (values.iter().any(is_tcp) == negated).then_some(Match::Others)
}

/// An element may have a comment or a timeout.
fn unwrapped(element: &Value) -> &Value {
    element.pointer("/elem/val").unwrap_or(element)
}

pub(super) trait Field: Sized {
    fn range(element: &Value) -> Option<RangeInclusive<Self>>;
}

fn one_of<T: Field>(values: &[&Value], negated: bool, is: fn(Values<T>) -> Match) -> Match {
    let ranges = values.iter().map(|value| T::range(unwrapped(value)));
    let ranges: Option<_> = ranges.collect();
    ranges.map_or(Match::Unknown, |ranges| is(Values { ranges, negated }))
}

impl Field for u16 {
    fn range(element: &Value) -> Option<RangeInclusive<Self>> {
        let port = |value: &Value| value.as_u64()?.try_into().ok();
        match list(&element["range"]) {
            [first, last] => Some(port(first)?..=port(last)?),
            _ => port(element).map(|port| port..=port),
        }
    }
}

impl Field for IpAddr {
    fn range(element: &Value) -> Option<RangeInclusive<Self>> {
        let address = |value: &Value| value.as_str()?.parse::<Self>().ok();
        if let Some(prefix) = element.get("prefix") {
            let len = prefix["len"].as_u64()?.try_into().ok()?;
            let net = IpNet::new(address(&prefix["addr"])?, len).ok()?;
            return Some(net.network()..=net.broadcast());
        }
        match list(&element["range"]) {
            [first, last] => Some(address(first)?..=address(last)?),
            _ => address(element).map(|address| address..=address),
        }
    }
}
