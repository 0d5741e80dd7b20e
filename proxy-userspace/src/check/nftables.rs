//! What nftables does with what comes in.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::facts::as_json;

/// The rules and chains of a ruleset.
pub struct Objects(Value);

impl Objects {
    pub fn read() -> Result<Self, String> {
        let mut ruleset = as_json()?;
        let objects = ruleset.get_mut("nftables").map(Value::take);
        let objects = objects.filter(Value::is_array);
        objects.map(Self).ok_or("nft spoke an unknown JSON".into())
    }

    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let all = self.0.as_array().into_iter().flatten();
        all.filter_map(move |object| object.get(kind))
    }

    fn rules(&self, chain: &Value) -> impl Iterator<Item = &Value> {
        self.of("rule").filter(move |rule| belongs(rule, chain))
    }

    /// Whether `rule`, or one that it leads to, is `wanted`.
    fn leads_to(&self, rule: &Value, wanted: &dyn Fn(&Value) -> bool, depth: u8) -> bool {
        if wanted(rule) {
            return true;
        }
        let verdicts = statements(rule).flat_map(|it| [it.get("jump"), it.get("goto")]);
        let mut targets = verdicts
            .flatten()
            .filter_map(|verdict| verdict.get("target"));
        depth > 0
            && targets.any(|target| {
                let mut chains = self.of("chain");
                let next = chains.find(|chain| {
                    chain.get("name") == Some(target) && chain.get("table") == rule.get("table")
                });
                let leads = |rule| self.leads_to(rule, wanted, depth - 1);
                next.is_some_and(|chain| self.rules(chain).any(leads))
            })
    }
}

/// Of jumps: firewalld has three.
const DEPTH: u8 = 8;

fn statements(rule: &Value) -> impl Iterator<Item = &Value> {
    let all = rule.get("expr").and_then(Value::as_array);
    all.into_iter().flatten()
}

fn says(rule: &Value, what: &str) -> bool {
    statements(rule).any(|statement| statement.get(what).is_some())
}

/// Of iptables, in nftables' words.
fn has_target(rule: &Value, names: &[&str]) -> bool {
    statements(rule).any(|statement| {
        let name = statement.pointer("/xt/name").and_then(Value::as_str);
        name.is_some_and(|name| names.contains(&name))
    })
}

/// Refuses by source address.
fn bans(rule: &Value) -> bool {
    let refuses = says(rule, "drop") || says(rule, "reject") || has_target(rule, &["REJECT"]);
    refuses && sources(rule).next().is_some()
}

/// The conditions on the source address.
fn sources(rule: &Value) -> impl Iterator<Item = &Value> {
    let matches = statements(rule).filter_map(|statement| statement.get("match"));
    matches.filter(|condition| {
        let field = condition.pointer("/left/payload/field");
        field.and_then(Value::as_str) == Some("saddr")
    })
}

/// Gives what comes from `net` another source.
fn renames(rule: &Value, net: &IpNet) -> bool {
    (has_target(rule, &["MASQUERADE", "SNAT"]) || says(rule, "masquerade") || says(rule, "snat"))
        && sources(rule).all(|condition| is_met(condition, net))
}

/// Lets alone what comes from `net`, wherever it goes.
fn spares(rule: &Value, net: &IpNet) -> bool {
    let matches = statements(rule).filter(|statement| statement.get("match").is_some());
    (says(rule, "accept") || says(rule, "return"))
        && matches.count() == sources(rule).count()
        && sources(rule).all(|condition| is_met(condition, net))
}

/// By an address of `net`. What a condition may be besides one prefix is not understood here.
fn is_met(condition: &Value, net: &IpNet) -> bool {
    let Some(right) = condition.get("right") else {
        return true;
    };
    let part = |at| right.pointer(at);
    let prefix = match (part("/prefix/addr"), part("/prefix/len"), right.as_str()) {
        (Some(addr), Some(len), _) => {
            let addr = addr.as_str().unwrap_or_default();
            format!("{addr}/{len}").parse::<IpNet>().ok()
        }
        (_, _, Some(addr)) => addr.parse::<IpAddr>().ok().map(IpNet::from),
        _ => None,
    };
    let is_equal = condition.get("op").and_then(Value::as_str) == Some("==");
    prefix.is_none_or(|prefix| (prefix.contains(net) || net.contains(&prefix)) == is_equal)
}

/// A chain that gives packets from `net` another source, as `family table chain`.
pub fn renaming(objects: &Objects, net: &IpNet) -> Option<String> {
    let renaming = objects.of("chain").find(|chain| {
        let is = |key, wanted| chain.get(key).and_then(Value::as_str) == Some(wanted);
        let family = chain.get("family").and_then(Value::as_str);
        let other = if net.addr().is_ipv4() { "ip6" } else { "ip" };
        let mut rules = objects.rules(chain).take_while(|rule| !spares(rule, net));
        is("type", "nat")
            && is("hook", "postrouting")
            && family != Some(other)
            && rules.any(|rule| objects.leads_to(rule, &|rule| renames(rule, net), DEPTH))
    });
    renaming.map(name)
}

/// An input chain that refuses by source address only behind a rule that accepts all that comes by
/// `device`, as `family table chain`.
pub fn bans_behind(objects: &Objects, device: &str) -> Option<String> {
    let behind = objects.of("chain").find(|chain| {
        let is_input = chain.get("hook").and_then(Value::as_str) == Some("input");
        let mut rules = objects
            .rules(chain)
            .skip_while(|rule| !accepts(rule, device));
        is_input && rules.any(|rule| objects.leads_to(rule, &bans, DEPTH))
    });
    behind.map(name)
}

/// `family table chain`
fn name(chain: &Value) -> String {
    let part = |key| chain.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{} {} {}", part("family"), part("table"), part("name"))
}

/// An input chain that drops by default and has no plain rule that accepts what comes by `device`,
/// as `family table chain`.
pub fn input_chain_against(objects: &Objects, device: &str) -> Option<String> {
    let against = objects.of("chain").find(|chain| {
        drops_input(chain) && !objects.rules(chain).any(|rule| accepts(rule, device))
    });
    against.map(name)
}

fn drops_input(chain: &Value) -> bool {
    let is = |key, wanted| chain.get(key).and_then(Value::as_str) == Some(wanted);
    is("hook", "input") && is("policy", "drop")
}

fn belongs(rule: &Value, chain: &Value) -> bool {
    let same = |of_rule, of_chain| rule.get(of_rule) == chain.get(of_chain);
    same("family", "family") && same("table", "table") && same("chain", "name")
}

/// Accepts all that comes by the device. What else a rule may accept is not understood here.
fn accepts(rule: &Value, device: &str) -> bool {
    let Some(statements) = rule.get("expr").and_then(Value::as_array) else {
        return false;
    };
    let verdict = statements
        .iter()
        .any(|statement| statement.get("accept").is_some());
    let mut matches = statements
        .iter()
        .filter_map(|statement| statement.get("match"));
    verdict && matches.all(|condition| is_device(condition, device))
}

/// `iif lo`, `iifname "truepeer*"`, `iifname { lo, eth0 }`.
fn is_device(condition: &Value, device: &str) -> bool {
    let key = condition.pointer("/left/meta/key").and_then(Value::as_str);
    let equal = condition.get("op").and_then(Value::as_str) == Some("==");
    let Some(right) = condition.get("right") else {
        return false;
    };
    let set = right.get("set").and_then(Value::as_array);
    let mut names = set
        .into_iter()
        .flatten()
        .chain([right])
        .filter_map(Value::as_str);
    equal && matches!(key, Some("iif" | "iifname")) && names.any(|name| fits(name, device))
}

fn fits(name: &str, device: &str) -> bool {
    match name.strip_suffix('*') {
        Some(start) => device.starts_with(start),
        None => name == device,
    }
}
