//! What rules of the firewall make of a path, a row for each.

use serde_json::{Value, json};

use super::{facts, parsed, service};
use crate::facts::{Facts, Family, Firewall, Ruleset};

/// Of a table with two sets, a chain at a hook and one for jumps, and one rule in the former.
fn with_rule(family: &str, hook: &str, expr: &Value) -> Facts {
    let part = |kind: &str, name: &str, more: (&str, Value)| json!({kind: {"family": family, "table": "t", "name": name, more.0: more.1}});
    let rule = |chain: &str, handle: u8, expr: &Value| {
        json!({"rule": {"family": family, "table": "t", "chain": chain,
            "handle": handle, "expr": expr}})
    };
    let ruleset = json!({"nftables": [
        part("set", "ours", ("elem", json!([80, {"range": [6990, 7010]}]))),
        part("set", "others", ("elem", json!([80, 443]))),
        part("chain", "base", ("hook", json!(hook))),
        part("chain", "divert", ("handle", json!(2))),
        rule("base", 1, expr),
        rule("divert", 2, &json!([redirect()])),
    ]});
    Facts {
        firewall: Firewall::known(Ruleset::parse(&ruleset)),
        ..facts()
    }
}

fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn is(left: &Value, right: &Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn port(right: impl Into<Value>) -> Value {
    is(&field("tcp", "dport"), &right.into())
}

fn from(address: &str) -> Value {
    is(&field("ip", "saddr"), &json!(address))
}

fn redirect() -> Value {
    json!({"redirect": {"port": 22}})
}

fn track(name: &str) -> Value {
    json!({"xt": {"type": "target", "name": name}})
}

/// Fails unless the service isn't direct for the families in `kept`, by this rule.
#[track_caller]
fn keeps(place: [&str; 2], expr: &Value, kept: [bool; 2]) {
    let facts = with_rule(place[0], place[1], expr);
    let said = Family::BOTH.map(|family| !facts.path(&service(), family).is_empty());
    assert_eq!(said, kept, "{place:?} {expr}");
}

const BOTH: [bool; 2] = [true; 2];
const V4: [bool; 2] = [true, false];
const NONE: [bool; 2] = [false; 2];
const IN: [&str; 2] = ["inet", "prerouting"];

#[test]
fn rules_that_redirect() {
    keeps(IN, &json!([port(7000), redirect()]), BOTH);
    keeps(IN, &json!([port(443), redirect()]), NONE);
    keeps(IN, &json!([redirect()]), BOTH);
    keeps(["ip", "prerouting"], &json!([port(7000), redirect()]), V4);
    keeps(IN, &json!([port("@ours"), redirect()]), BOTH);
    keeps(IN, &json!([port("@others"), redirect()]), NONE);
    keeps(IN, &json!([from("198.51.100.1"), redirect()]), V4);
    let udp = is(&field("udp", "dport"), &json!(7000));
    keeps(IN, &json!([udp, redirect()]), NONE);
    let not_ours = json!({"match": {"op": "!=", "left": field("tcp", "dport"), "right": 7000}});
    keeps(IN, &json!([not_ours, redirect()]), NONE);
    keeps(IN, &json!([port(443), {"redirect": {"port": 7000}}]), BOTH);
    keeps(
        ["inet", "postrouting"],
        &json!([{"masquerade": null}]),
        NONE,
    );
    keeps(
        ["inet", "input"],
        &json!([port(7000), {"synproxy": {}}]),
        BOTH,
    );
    keeps(
        ["inet", "input"],
        &json!([port(7000), {"drop": null}]),
        NONE,
    );
}

#[test]
fn jumps_maps_and_concatenations() {
    let divert = json!({"jump": {"target": "divert"}});
    keeps(IN, &json!([divert]), BOTH);
    keeps(IN, &json!([port(443), divert]), NONE);
    let verdicts = |port: u16| {
        let data = json!({"set": [[80, {"drop": null}], [port, divert]]});
        json!([{"vmap": {"key": field("tcp", "dport"), "data": data}}])
    };
    keeps(IN, &verdicts(7000), BOTH);
    keeps(IN, &verdicts(443), NONE);
    let map = |port: u16| {
        let map = json!({"key": field("tcp", "dport"), "data": {"set": [[port, "10.0.0.1"]]}});
        json!([{"dnat": {"addr": {"map": map}}}])
    };
    keeps(IN, &map(7000), BOTH);
    keeps(IN, &map(443), NONE);
    let pair = |port: u16| {
        let left = json!({"concat": [field("ip", "saddr"), field("tcp", "dport")]});
        let right = json!({"set": [{"concat": ["198.51.100.1", port]}]});
        json!([is(&left, &right), redirect()])
    };
    keeps(IN, &pair(7000), V4);
    keeps(IN, &pair(443), NONE);
}

/// Those for every connection are no concern of this service's.
#[test]
fn rules_that_track() {
    let notrack = json!({"notrack": null});
    keeps(IN, &json!([port(7000), notrack]), BOTH);
    keeps(IN, &json!([notrack]), NONE);
    let mark = json!({"mangle": {"key": {"ct": {"key": "mark"}}, "value": 7}});
    keeps(IN, &json!([port(7000), mark]), BOTH);
    keeps(IN, &json!([mark]), NONE);
    keeps(IN, &json!([port(7000), track("CONNMARK")]), BOTH);
    keeps(IN, &json!([port(7000), track("LOG")]), NONE);
}

#[test]
fn rules_of_a_device() {
    const INGRESS: [&str; 2] = ["netdev", "ingress"];
    keeps(INGRESS, &json!([{"drop": null}]), BOTH);
    keeps(INGRESS, &json!([port(443), {"drop": null}]), NONE);
    keeps(INGRESS, &json!([{"accept": null}]), NONE);
}

/// Whether a rule is named as one that sees nothing any more.
#[test]
fn rules_that_see_nothing() {
    let balancers = [parsed("198.51.100.1/32")];
    let drop = json!({"drop": null});
    for (expr, named) in [
        (json!([port(7000), drop]), true),
        (
            json!([port(json!({"set": [22, 7000]})), {"accept": null}]),
            true,
        ),
        (json!([from("198.51.100.1"), drop]), true),
        (json!([from("198.51.100.3"), drop]), false),
        (json!([port(8080), drop]), false),
        (json!([drop]), false),
        // It sees them: the service isn't direct.
        (json!([port(7000), redirect()]), false),
    ] {
        let facts = with_rule("inet", "input", &expr);
        let unseen = facts.unseen(&service(), Family::V4, &balancers);
        assert_eq!(!unseen.is_empty(), named, "{expr}");
    }
}
