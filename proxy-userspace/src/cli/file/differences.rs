//! Differences of files.

use std::fs;

use super::read;
use crate::plan::{Difference, NeedsRestart};

const BEFORE: &str = r#"
instance = "one"
[[service]]
name = "web"
listen = ["192.0.2.1:80", "[::]:81"]
target4 = "127.0.0.1:8080"
target6 = "[::1]:8080"
allow = ["192.0.2.0/24"]
[[service]]
name = "dns"
protocol = "udp"
listen = ["192.0.2.1:53"]
target4 = "127.0.0.1:5353"
allow = ["192.0.2.0/24"]
"#;

/// Of what becomes of the file if a piece of it is another one.
fn of(from: &str, to: &str) -> Result<Difference, NeedsRestart> {
    assert!(BEFORE.contains(from), "{from}");
    let directory = tempfile::tempdir().expect("a directory");
    let of = |text: &str| {
        let path = directory.path().join("truepeer.toml");
        fs::write(&path, text).expect("written");
        read(&path).expect("a configuration")
    };
    Difference::between(&of(BEFORE), &of(&BEFORE.replacen(from, to, 1)))
}

fn lines(from: &str, to: &str) -> Vec<String> {
    of(from, to).expect("nothing that needs a restart").lines()
}

#[test]
fn what_is_the_same_is_no_difference() {
    assert!(
        of("", "# Another word.\n")
            .expect("a difference")
            .is_empty()
    );
    let turned = (
        r#"["192.0.2.1:80", "[::]:81"]"#,
        r#"["[::]:81", "192.0.2.1:80"]"#,
    );
    assert_eq!(lines(turned.0, turned.1), [""; 0]);
}

#[test]
fn services_are_the_same_by_name() {
    let renamed = of("name = \"dns\"", "name = \"names\"").expect("a difference");
    assert_eq!(
        renamed.lines(),
        [
            "added names: udp at 192.0.2.1:53 for 127.0.0.1:5353",
            "removed dns: udp at 192.0.2.1:53 for 127.0.0.1:5353",
        ]
    );
    assert!(renamed.udp.new.is_empty() && renamed.udp.old.is_empty());
}

#[test]
fn keys_that_change_are_named() {
    let changed = of("192.0.2.1:80\"", "192.0.2.1:8000\"").expect("a difference");
    assert_eq!(changed.lines(), ["changed web: listen"]);
    assert_eq!(
        changed.tcp.new,
        ["192.0.2.1:8000".parse().expect("an address")]
    );
    assert_eq!(
        changed.tcp.old,
        ["192.0.2.1:80".parse().expect("an address")]
    );
    let protocol = "protocol = \"udp\"";
    for (key, value) in [
        ("close_after", "\"5s\""),
        ("header", "\"spp\""),
        ("outsiders", "\"app\""),
        // No balancer can have more than all together.
        ("maxconn, maxconn_per_balancer", "7"),
        ("maxconn_per_balancer", "7"),
        ("maxconn_per_client", "7"),
        ("maxconnrate_per_balancer", "7"),
        ("maxconnrate_per_client", "7"),
        ("deny", "[\"198.51.100.7\"]"),
        ("allow_state", "\"/tmp/list\""),
        ("on_local", "\"reject\""),
        ("target6", "\"[::1]:5353\""),
    ] {
        let first = key.split(',').next().expect("a key");
        let with_key = format!("{protocol}\n{first} = {value}");
        assert_eq!(lines(protocol, &with_key), [format!("changed dns: {key}")]);
    }
}

#[test]
fn what_needs_a_restart_says_so() {
    let instance = "instance = \"one\"";
    for key in [
        "workers = 3",
        "direct = \"off\"",
        "orphan_timeout = \"3s\"",
        "maxconn = 9",
    ] {
        let error = of(instance, &format!("{instance}\n{key}"))
            .expect_err(key)
            .to_string();
        let key = key.split(' ').next().expect("a key");
        assert!(
            error.starts_with(&format!("{key}: ")) && error.contains("--take-over"),
            "{error}"
        );
    }
    assert!(
        of(instance, &format!("{instance}\ndrain_timeout = \"3s\""))
            .expect("none")
            .is_empty()
    );
    let v4 = r#""192.0.2.1:80""#;
    assert!(of(v4, r#""192.0.2.1:81""#).is_ok());
}
