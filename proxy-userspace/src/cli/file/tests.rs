//! Files as people write them, with and without mistakes.

use std::fs;

use clap::Parser as _;

use super::{
    super::{
        EXAMPLE,
        args::{self, Cli},
    },
    *,
};
use crate::config::Protocol;

fn of(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("truepeer.toml");
    fs::write(&path, text).expect("a file");
    let place = format!("{}:", path.display());
    read(&path).map_err(|error| error.to_string().replace(&place, ""))
}

#[test]
fn the_example_is_one() {
    let config = of(EXAMPLE).expect("a configuration");
    let names: Vec<_> = config.services.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["ssh", "game"]);
    let keys = RunArgs::KEYS.into_iter().chain(["instance"]).map(in_file);
    let missing: Vec<_> = keys
        .filter(|key| !EXAMPLE.contains(&format!("{key} = ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // What stands behind # is right as well.
    let commented = EXAMPLE.lines().map(|line| {
        let line = line.strip_prefix("# ").filter(|line| line.contains(" = "));
        line.unwrap_or_default().to_owned() + "\n"
    });
    let (instance, service): (Vec<_>, Vec<_>) = commented.partition(|line| {
        line.starts_with(|c| "iwdoms".contains(c))
            && !line.contains("deny")
            && !line.contains("_per_")
            && !line.starts_with("on_")
    });
    let text = instance.concat()
        + EXAMPLE
        + "\n[[service]]\nname = \"more\"\nlisten = \"127.0.0.1:1\"\ntarget4 = \"127.0.0.1:2\"\n"
        + &service.concat();
    of(&text).expect("the same with all that it has");
}

#[test]
fn those_of_the_readme_are_ones() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(readme).expect("the README");
    let mut blocks = readme.split("```toml\n").skip(1).peekable();
    assert!(blocks.peek().is_some());
    for block in blocks {
        let text = block.split("```").next().unwrap_or_default();
        of(text).expect(text);
    }
}

#[test]
fn a_file_and_flags_mean_the_same() {
    let file = "drain_timeout = 7\n[defaults]\nallow = [\"10.0.0.0/8\", \"::1\"]\nheader = \"v2\"\n\
                [[service]]\nname = \"default\"\nprotocol = \"udp\"\nlisten = [\"0.0.0.0:53\"]\n\
                target4 = \"127.0.0.1:5353\"\nheader = \"spp\"\nmaxconn = 1000\n";
    let flags = "truepeer run -l 0.0.0.0:53 -4 127.0.0.1:5353 -p udp --header spp --allow 10.0.0.0/8 ::1 \
                 --drain-timeout 7s --maxconn 1000";
    let args::Command::Run(args) = Cli::parse_from(flags.split_whitespace()).command else {
        panic!("another command");
    };
    let mut typed = run::config(*args).expect("flags");
    let written = of(file).expect("a file");
    typed.services[0].id = written.services[0].id;
    assert_eq!(format!("{typed:?}"), format!("{written:?}"));
}

#[test]
fn defaults_are_for_those_that_say_nothing() {
    let config = of("maxconn = 7\n[defaults]\nallow = \"10.0.0.1\"\nclose_after = \"5s\"\nprotocol = \"udp\"\n\
         [[service]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\ntarget4 = \"127.0.0.1:2\"\n\
         [[service]]\nname = \"b\"\nlisten = \"127.0.0.1:1\"\ntarget4 = \"127.0.0.1:2\"\nprotocol = \"tcp\"\n")
        .expect("one port of each");
    assert!(
        matches!(config.services[0].protocol, Protocol::Udp { close_after, .. } if close_after.seconds() == 5)
    );
    assert_eq!(config.services[1].protocol, Protocol::Tcp);
    assert_eq!(config.maxconn.map(std::num::NonZeroUsize::get), Some(7));
}

const SERVICE: &str = "[[service]]\nname = \"a\"\nlisten = [\"127.0.0.1:1\"]\ntarget4 = \"127.0.0.1:2\"\n\
                       allow = [\"10.0.0.1\"]\n";

fn is_told(text: &str, expected: &str) {
    let said = of(text).expect_err(text);
    assert!(
        said.starts_with(expected),
        "{text}\n{said}\nand not {expected}"
    );
}

#[test]
fn a_wrong_key_or_value_is_told_with_its_place() {
    for (more, expected) in [
        ("listen = [\"127.0.0.1:3\"]", "6:1: duplicate key"),
        (
            "lisen = 1",
            "6:1: there is no key lisen: did you mean listen?",
        ),
        ("zzz = 1", "6:1: there is no key zzz: see"),
        (
            "allow-files = []",
            "6:1: there is no key allow-files: did you mean allow_files?",
        ),
        ("header_timeout = true", "6:18: boolean can't be taken"),
        (
            "header_timeout = \"soon\"",
            "6:18: header_timeout \"soon\": write a time",
        ),
        (
            "header = \"v3\"",
            "6:10: header \"v3\": write one of any, v1",
        ),
        (
            "header = \"spp\"",
            "6:1: service a: header spp is for UDP: add protocol udp",
        ),
        (
            "target6 = \"127.0.0.1:2\"",
            "6:11: target6 \"127.0.0.1:2\": that is an IPv4 address: write target4 127",
        ),
        ("target6 = [\"[::1]:2\"]", "6:11: target6 has one value"),
        (
            "drain_timeout = 1",
            "6:1: drain_timeout is of all services together",
        ),
        ("maxconn = 1", "6:1: maxconn of a service is for UDP"),
    ] {
        is_told(&format!("{SERVICE}{more}\n"), expected);
    }
    is_told("", "1:1: there is no service");
    is_told("services = 1", "1:1: each service is a table");
    is_told("defaults = 1", "1:1: defaults is a table");
    is_told("[[service]\n", "1:11: ");
}

#[test]
fn what_is_in_the_wrong_place_is_told() {
    let before = |more: &str| format!("{more}\n{SERVICE}");
    is_told(&before("header = \"v2\""), "1:1: header is a service's");
    is_told(
        &before("[defaults]\nlisten = \"127.0.0.1:9\""),
        "2:1: listen is each service's own",
    );
    is_told(
        &before("[defaults]\nallow_state = \"/x\""),
        "2:1: allow_state is each service's own",
    );
    let keeps = format!("{SERVICE}allow_state = \"/x\"\n");
    let other = keeps.replace("\"a\"", "\"b\"").replace(":1\"", ":3\"");
    is_told(
        &format!("{keeps}{other}"),
        "1:1: services a and b have the same allow_state /x",
    );
    is_told(
        &before("[defaults]\nname = \"x\""),
        "2:8: name is each service's own",
    );
    is_told(
        &before("[defaults]\nmaxconn = 1"),
        "2:1: maxconn is here for services of UDP",
    );
    is_told(&before("name = \"x\""), "1:1: name is each service's own");
    let udp = SERVICE.replace("name", "protocol = \"udp\"\nname");
    is_told(
        &format!("maxconn = 1\n{udp}"),
        "1:1: maxconn is here for services of TCP",
    );
    let at_port = udp
        .replace("\"a\"", "\"b\"")
        .replace(":1\"", ":3\"")
        .replace("127.0.0.1:2", "127.0.0.2:2");
    is_told(
        &format!("{udp}{at_port}"),
        "11:11: target 127.0.0.2:2 of UDP has the port",
    );
    let other = SERVICE.replace("\"a\"", "\"b\"");
    is_told(
        &format!("{SERVICE}{SERVICE}"),
        "7:8: there is a service a already",
    );
    is_told(
        &format!("{SERVICE}{other}"),
        "8:11: 127.0.0.1:1 is given twice",
    );
    let at_listener = other.replace(":1\"", ":3\"").replace(":2\"", ":1\"");
    is_told(
        &format!("{SERVICE}{at_listener}"),
        "9:11: listening at 127.0.0.1:1 takes target",
    );
}

#[test]
fn what_a_service_lacks_is_told() {
    for (from, to, expected) in [
        ("name = \"a\"\n", "", "1:1: this service has no name"),
        ("\"a\"", "\"a b\"", "2:8: a service's name has"),
        (
            "allow = [\"10.0.0.1\"]",
            "",
            "1:1: service a has no allowlist",
        ),
        (
            "target4 = \"127.0.0.1:2\"",
            "",
            "1:1: service a has no target4",
        ),
        (
            "listen = [\"127.0.0.1:1\"]\n",
            "",
            "1:1: service a has no listen",
        ),
        (
            "10.0.0.1",
            "10.0.0.1\", \"10.0.0.0/33",
            "5:22: allow \"10.0.0.0/33\": a prefix length",
        ),
    ] {
        is_told(&SERVICE.replace(from, to), expected);
    }
}
