//! What nftables does with what comes in.

use serde_json::Value;

use crate::facts::as_json;

/// An input chain that drops by default and has no plain rule that accepts what comes by `device`,
/// as `family table chain`.
pub fn input_chain_against(device: &str) -> Result<Option<String>, String> {
    let ruleset = as_json()?;
    let objects = ruleset
        .get("nftables")
        .and_then(Value::as_array)
        .ok_or("nft spoke an unknown JSON")?;
    let rules: Vec<&Value> = objects
        .iter()
        .filter_map(|object| object.get("rule"))
        .collect();
    let mut chains = objects.iter().filter_map(|object| object.get("chain"));
    let against = chains.find(|chain| {
        let mut own = rules.iter().filter(|rule| belongs(rule, chain));
        drops_input(chain) && !own.any(|rule| accepts(rule, device))
    });
    Ok(against.map(|chain| {
        let part = |key| chain.get(key).and_then(Value::as_str).unwrap_or_default();
        format!("{} {} {}", part("family"), part("table"), part("name"))
    }))
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
