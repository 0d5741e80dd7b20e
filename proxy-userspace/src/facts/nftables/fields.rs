//! What a condition asks of a packet.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use serde_json::Value;

use super::{Devices, Match, Values};
use crate::{config::Transport, facts::Family};

pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What it asks of a packet; nothing, where each that a client begins with has it.
pub fn field(left: &Value, values: &[&Value], negated: bool) -> Vec<Match> {
    let payload = &left["payload"];
    let is_v6 = payload["protocol"] == "ip6";
    let family = Match::Family(if is_v6 { Family::V6 } else { Family::V4 });
    match (text(payload, "protocol"), text(payload, "field")) {
        ("tcp", name) => and(
            Match::Transport(Transport::Tcp),
            of_transport(name, values, negated),
        ),
        ("udp", name) => and(
            Match::Transport(Transport::Udp),
            of_transport(name, values, negated),
        ),
        ("th", name) => of_transport(name, values, negated).into_iter().collect(),
        ("ip" | "ip6", "saddr") => vec![one_of(values, negated, Match::Source)],
        ("ip" | "ip6", "daddr") => vec![one_of(values, negated, Match::Destination)],
        ("ip", "protocol") | ("ip6", "nexthdr") => and(family, transport(values, negated)),
        ("ip" | "ip6", "version") => vec![family],
        ("ip" | "ip6", _) => vec![family, Match::Unknown],
        ("udplite" | "icmp" | "icmpv6" | "sctp" | "dccp" | "esp" | "ah" | "arp", _) => {
            vec![Match::Others]
        }
        ("", _) => beyond_the_packet(left, values, negated)
            .into_iter()
            .collect(),
        _ => vec![Match::Unknown],
    }
}

fn and(one: Match, more: Option<Match>) -> Vec<Match> {
    [one].into_iter().chain(more).collect()
}

/// What it asks by a field of TCP's header, or of UDP's.
fn of_transport(name: &str, values: &[&Value], negated: bool) -> Option<Match> {
    match name {
        "dport" => Some(one_of(values, negated, Match::Port)),
        "sport" if !negated && values.iter().any(is_every_clients) => None,
        _ => Some(Match::Unknown),
    }
}

/// A port that clients connect from.
fn is_every_clients(ports: &&Value) -> bool {
    const UNPRIVILEGED: u16 = 1024;
    let range = u16::range(unwrapped(ports));
    range.is_some_and(|it| *it.start() <= UNPRIVILEGED && *it.end() == u16::MAX)
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
        "l4proto" => transport(values, negated),
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

/// Nothing, where both TCP and UDP are among them.
fn transport(values: &[&Value], negated: bool) -> Option<Match> {
    if !values.iter().all(|it| it.is_string() || it.is_u64()) {
        return Some(Match::Unknown);
    }
    let [tcp, udp] = [Transport::Tcp, Transport::Udp].map(|transport| {
        let is_it = |value: &&Value| {
            **value == transport.name() || value.as_u64() == Some(transport.number().into())
        };
        values.iter().any(is_it) != negated
    });
    match (tcp, udp) {
        (true, true) => None,
        (true, false) => Some(Match::Transport(Transport::Tcp)),
        (false, true) => Some(Match::Transport(Transport::Udp)),
        (false, false) => Some(Match::Others),
    }
}

/// An element may have a comment or a timeout.
pub fn unwrapped(element: &Value) -> &Value {
    element.pointer("/elem/val").unwrap_or(element)
}

trait Field: Sized {
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
