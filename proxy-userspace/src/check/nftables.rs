//! What nftables does with what comes in.

use serde_json::Value;

use crate::facts::as_json;

/// The rules and chains of a ruleset.
struct Objects(Value);

impl Objects {
    fn read() -> Result<Self, String> {
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

    /// Whether `rule`, or one that it leads to, refuses by source address.
    fn bans(&self, rule: &Value, depth: u8) -> bool {
        let statements = rule.get("expr").and_then(Value::as_array);
        let statements = || statements.into_iter().flatten();
        let says = |what: &str| statements().any(|statement| statement.get(what).is_some());
        if (says("drop") || says("reject")) && statements().any(is_by_source) {
            return true;
        }
        let verdicts = statements().flat_map(|it| [it.get("jump"), it.get("goto")]);
        let mut targets = verdicts
            .flatten()
            .filter_map(|verdict| verdict.get("target"));
        depth > 0
            && targets.any(|target| {
                let mut chains = self.of("chain");
                let next = chains.find(|chain| {
                    chain.get("name") == Some(target) && chain.get("table") == rule.get("table")
                });
                next.is_some_and(|chain| self.rules(chain).any(|rule| self.bans(rule, depth - 1)))
            })
    }
}

/// `ip saddr …`
fn is_by_source(statement: &Value) -> bool {
    let field = statement.pointer("/match/left/payload/field");
    field.and_then(Value::as_str) == Some("saddr")
}

/// An input chain that refuses by source address only behind a rule that accepts all that comes by
/// `device`, as `family table chain`.
pub fn bans_behind(device: &str) -> Result<Option<String>, String> {
    /// Of jumps: firewalld has three.
    const DEPTH: u8 = 8;
    let objects = Objects::read()?;
    let behind = objects.of("chain").find(|chain| {
        let is_input = chain.get("hook").and_then(Value::as_str) == Some("input");
        let mut rules = objects
            .rules(chain)
            .skip_while(|rule| !accepts(rule, device));
        is_input && rules.any(|rule| objects.bans(rule, DEPTH))
    });
    Ok(behind.map(name))
}

/// `family table chain`
fn name(chain: &Value) -> String {
    let part = |key| chain.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{} {} {}", part("family"), part("table"), part("name"))
}

/// An input chain that drops by default and has no plain rule that accepts what comes by `device`,
/// as `family table chain`.
pub fn input_chain_against(device: &str) -> Result<Option<String>, String> {
    let objects = Objects::read()?;
    let against = objects.of("chain").find(|chain| {
        drops_input(chain) && !objects.rules(chain).any(|rule| accepts(rule, device))
    });
    Ok(against.map(name))
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
