//! A host that allows everything, and what one change of it says.

mod rules;

use std::time::Duration;

use proxy_common::limits::Limits;

use super::{
    Conntrack, Facts, Family, Firewall, Reason, Ruleset, Sysctls,
    host::{IpsecPolicy, RoutingRule},
    listeners::BoundApp,
    sysctls::{Forwards, Offers},
};
use crate::{
    config::{HeaderOptions, PrefixSource, Service},
    header::Policy,
    netns::Entrance,
    relay::ClientPolicy,
};

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a literal of the test's")
}

/// Listens at port 7000 of one address of each family, for applications on loopback.
fn service() -> Service {
    Service {
        protocol: crate::config::Protocol::Tcp,
        outsiders: None,
        guard: Vec::new(),
        name: "default".into(),
        id: 0,
        drained: false,
        listen: vec![parsed("198.51.100.2:7000"), parsed("[2001:db8:e::2]:7000")],
        target4: Some(parsed("127.0.0.1:8080")),
        target6: Some(parsed("[::1]:8080")),
        allow: PrefixSource::default(),
        allow_state: None,
        deny: PrefixSource::default(),
        header: HeaderOptions {
            policy: Policy::default(),
            timeout: Duration::ZERO,
        },
        limits: Limits::default(),
        clients: ClientPolicy::default(),
        connect_timeout: Duration::ZERO,
    }
}

/// Of a host that allows everything.
fn facts() -> Facts {
    Facts {
        wanted: true,
        kfunc: true,
        device: "truepeer0".into(),
        sysctls: Sysctls {
            syncookies: true,
            conntrack: Conntrack::Loose,
            strict_lo: false,
            strict_veth: false,
            offers: Offers {
                timestamps: true,
                sack: true,
                window_scale: Some(7),
            },
            forwards: Forwards { v4: true, v6: true },
            legacy_tables: vec!["filter".into()],
        },
        routing_rules: Vec::new(),
        ipsec: Vec::new(),
        vrfs: Vec::new(),
        firewall: Firewall::known(Ruleset::default()),
        addresses: [parsed("198.51.100.2"), parsed("2001:db8:e::2")].into(),
        own_nets: [].into(),
        here: [parsed("198.51.100.2"), parsed("2001:db8:e::2")].into(),
        multipath: [].into(),
        bound: [].into(),
    }
}

fn policy(local: &str, protocol: Option<u8>) -> IpsecPolicy {
    IpsecPolicy {
        local: parsed(local),
        remote: parsed("0.0.0.0/0"),
        protocol,
    }
}

/// What the reasons for IPv4 and IPv6 are called once the host or the service is changed.
#[track_caller]
fn says(change: impl FnOnce(&mut Facts, &mut Service), v4: &[&str], v6: &[&str]) {
    let (mut facts, mut service) = (facts(), service());
    change(&mut facts, &mut service);
    let said = Family::BOTH.map(|family| {
        let reasons = facts.path(&service, family);
        reasons.iter().map(Reason::name).collect::<Vec<_>>()
    });
    assert_eq!(said, [v4, v6]);
}

#[track_caller]
fn says_of_both(change: impl FnOnce(&mut Facts, &mut Service), reasons: &[&str]) {
    says(change, reasons, reasons);
}

#[test]
fn settings() {
    says_of_both(|_, _| {}, &[]);
    says_of_both(|f, _| f.wanted = false, &["switched_off"]);
    says_of_both(|f, _| f.kfunc = false, &["no_kfunc"]);
    says_of_both(|f, _| f.sysctls.syncookies = false, &["no_syncookies"]);
    let conntrack = |is| move |f: &mut Facts, _: &mut Service| f.sysctls.conntrack = is;
    says_of_both(conntrack(Conntrack::Strict), &["strict_conntrack"]);
    says_of_both(conntrack(Conntrack::Absent), &[]);
    says(|f, _| f.sysctls.strict_lo = true, &["strict_lo"], &[]);
    let forwards = Forwards {
        v4: true,
        v6: false,
    };
    says(
        |f, _| f.sysctls.forwards = forwards,
        &[],
        &["no_forwarding"],
    );
    let legacy = |f: &mut Facts, _: &mut Service| f.sysctls.legacy_tables.push("nat".into());
    says_of_both(legacy, &["firewall_unreadable"]);
    let unreadable = Firewall::Unreadable("can't run nft".into());
    says_of_both(|f, _| f.firewall = unreadable, &["firewall_unreadable"]);
}

#[test]
fn networks() {
    let rule = RoutingRule {
        family: Family::V6,
        priority: 100,
    };
    says(
        |f, _| f.routing_rules = vec![rule],
        &[],
        &["policy_routing"],
    );
    says_of_both(|f, _| f.vrfs = vec!["red".into()], &["vrf"]);
    let policies = |all| |f: &mut Facts, _: &mut Service| f.ipsec = all;
    let covering = vec![policy("198.51.100.0/24", None)];
    says(policies(covering), &["ipsec"], &[]);
    let others = vec![policy("10.0.0.0/8", None), policy("0.0.0.0/0", Some(17))];
    says_of_both(policies(others), &[]);
}

#[test]
fn targets() {
    says(|_, s| s.target6 = None, &[], &["no_target"]);
    let target = |at: &str| {
        let at = parsed(at);
        move |_: &mut Facts, s: &mut Service| s.target4 = Some(at)
    };
    says(target("198.51.100.9:80"), &["target_beyond_host"], &[]);
    says_of_both(target("198.51.100.2:80"), &[]);
    let multipath = |at: &str| {
        let at = parsed(at);
        move |f: &mut Facts, _: &mut Service| f.multipath = [at].into()
    };
    says(multipath("[::1]:8080"), &[], &["multipath_app"]);
    says_of_both(multipath("127.0.0.1:8081"), &[]);
    let bound = |at: &str| {
        let (at, name) = (parsed(at), "eth0".to_owned());
        let app = BoundApp {
            entrance: Entrance { name, index: 2 },
            listens: true,
        };
        move |f: &mut Facts, _: &mut Service| f.bound = [(at, app)].into()
    };
    says(bound("127.0.0.1:8080"), &["bound_app"], &[]);
    says_of_both(bound("127.0.0.1:8081"), &[]);
    // Whoever listens on all of this host's addresses isn't who serves there.
    let beyond = |f: &mut Facts, s: &mut Service| {
        target("198.51.100.9:80")(f, s);
        multipath("198.51.100.9:80")(f, s);
    };
    says(beyond, &["target_beyond_host"], &[]);
    let both = |f: &mut Facts, s: &mut Service| {
        f.kfunc = false;
        s.target4 = None;
    };
    says(both, &["no_kfunc", "no_target"], &["no_kfunc"]);
}

#[test]
fn listeners_on_any_address_hear_ipv4_as_well() {
    let mut service = service();
    for (listen, v4, v6) in [
        ("198.51.100.2:7000", true, false),
        ("0.0.0.0:7000", true, false),
        ("[::]:7000", true, true),
        ("[2001:db8:e::2]:7000", false, true),
    ] {
        service.listen = vec![parsed(listen)];
        let hears = Family::BOTH.map(|family| service.hears(family));
        assert_eq!(hears, [v4, v6], "{listen}");
    }
}
