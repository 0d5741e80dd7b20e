//! A configuration file: each key is a flag of `run`, with that one's words. Where a wrong one stands is told with it.

mod document;
mod keys;

use std::{collections::BTreeMap, fs, path::Path};

use clap::{
    Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use self::{
    document::{File, Key, Table, Tables},
    keys::{flag, id_in, in_file, in_keys},
};
use super::{
    args::{self, Cli},
    run,
};
use crate::config::{Config, ConfigError, Service};

/// Of services of UDP alone: in defaults, others pass them by.
const OF_UDP: [&str; 4] = [
    "close_after",
    "maxconn",
    "maxconn_per_balancer",
    "outsiders",
];

/// What a file has, resolved.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let file = File { path, text: &text };
    let tables = file.tables()?;
    let config = file.resolve(&tables)?;
    config.check().map_err(|error| {
        let at = tables.place_of_address(&error.to_string());
        file.wrong(at, in_keys(&error.to_string()))
    })?;
    Ok(config)
}

impl File<'_> {
    fn resolve(&self, tables: &Tables) -> Result<Config, ConfigError> {
        let mut all: Option<Config> = None;
        let mut names = BTreeMap::new();
        for (number, service) in (1..).zip(&tables.services) {
            let Some((name, at)) = &service.name else {
                return Err(self.wrong(
                    service.at.clone(),
                    "this service has no name: write name = \"...\"",
                ));
            };
            if names.insert(name, at).is_some() {
                let what = format!("there is a service {name} already: give this one another name");
                return Err(self.wrong(at.clone(), what));
            }
            let one = self.service(tables, service, name)?;
            let maxconn = one.maxconn;
            let all = all.get_or_insert_with(|| Config {
                services: Vec::new(),
                ..one.clone()
            });
            all.maxconn = all.maxconn.or(maxconn);
            all.services
                .extend(one.services.into_iter().map(|service| Service {
                    name: name.clone(),
                    // Until the instance's own are known.
                    id: number,
                    ..service
                }));
        }
        let all = all.ok_or_else(|| {
            self.wrong(
                0..0,
                "there is no service: write [[service]] and below it its keys",
            )
        })?;
        let unused = |table: &Table, is_udp: bool| {
            let mut services = all.services.iter();
            let key = table.find("maxconn").map(|key| key.at.clone());
            key.filter(|_| !services.any(|service| service.is_udp() == is_udp))
        };
        if let Some(at) = unused(&tables.instance, false) {
            let what = "maxconn is here for services of TCP, and there is none: those of UDP have their own";
            return Err(self.wrong(at, what));
        }
        if let Some(at) = unused(&tables.defaults, true) {
            let what = "maxconn is here for services of UDP, and there is none: for TCP write it above the first \
                        [[service]] or [defaults]";
            return Err(self.wrong(at, what));
        }
        Ok(all)
    }

    /// A configuration of this one alone.
    fn service(&self, tables: &Tables, service: &Table, name: &str) -> Result<Config, ConfigError> {
        let defaults = tables.defaults.keys.iter();
        let defaults = defaults.filter(|key| service.find(key.id).is_none());
        let defaults: Vec<_> = defaults.collect();
        let is_udp =
            |key: &Key| key.id == "protocol" && key.values.iter().any(|(text, _)| text == "udp");
        let is_udp = service
            .keys
            .iter()
            .chain(defaults.iter().copied())
            .any(is_udp);
        if let Some(key) = service.find("maxconn").filter(|_| !is_udp) {
            let what = "maxconn of a service is for UDP: for connections of all services, write it above the \
                        first [[service]] or [defaults]";
            return Err(self.wrong(key.at.clone(), what));
        }
        let of_instance = tables.instance.keys.iter();
        // UDP's are flows, and each service's own.
        let of_instance = of_instance.filter(|key| !is_udp || key.id != "maxconn");
        let of_defaults = defaults
            .iter()
            .filter(|key| is_udp || !OF_UDP.contains(&key.id));
        let typed = of_instance
            .chain(of_defaults.copied())
            .flat_map(Key::arguments);
        let typed = ["truepeer", "run"]
            .into_iter()
            .map(str::to_owned)
            .chain(typed);
        let parsed = Cli::try_parse_from(typed.chain(service.arguments()));
        let places = || {
            let all = service.keys.iter().chain(defaults.iter().copied());
            all.chain(&tables.instance.keys)
        };
        let args = match parsed.map(|cli| cli.command) {
            Ok(args::Command::Run(args)) => args,
            Ok(_) => return Err(self.wrong(service.at.clone(), "this is no service")),
            Err(error) => return Err(self.mistyped(&error, service, name, places())),
        };
        if args.allow.is_empty() && args.allow_file.is_empty() {
            let what = format!(
                "service {name} has no allowlist: name the balancers by allow = [\"CIDR\"] or allow_files = [\"FILE\"]"
            );
            return Err(self.wrong(service.at.clone(), what));
        }
        run::resolve(*args).map_err(|error| {
            let words = error.to_string();
            let named = |key: &&Key| words.contains(&flag(key.id));
            let at = places().find(named).map_or(&service.at, |key| &key.at);
            self.wrong(at.clone(), format!("service {name}: {}", in_keys(&words)))
        })
    }

    /// What clap says of a value, where that stands.
    fn mistyped<'k>(
        &self,
        error: &clap::Error,
        service: &Table,
        name: &str,
        mut keys: impl Iterator<Item = &'k Key>,
    ) -> ConfigError {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => vec![text.clone()],
            Some(ContextValue::Strings(texts)) => texts.clone(),
            _ => Vec::new(),
        };
        let flags = context(ContextKind::InvalidArg);
        let flags: Vec<_> = flags.iter().map(|flag| id_in(flag).0).collect();
        if error.kind() == ErrorKind::MissingRequiredArgument {
            let missing: Vec<_> = flags.iter().map(|flag| in_file(flag)).collect();
            let what = format!("service {name} has no {}", missing.join(" and no "));
            return self.wrong(service.at.clone(), what);
        }
        let values = context(ContextKind::InvalidValue);
        let key = keys.find(|key| flags.iter().any(|flag| flag == key.id));
        let value = key.and_then(|key| {
            // Several prefixes may stand in one text.
            let is = |text: &str| {
                text.split(',')
                    .any(|part| values.iter().any(|it| it == part))
            };
            key.values
                .iter()
                .find(|(text, _)| is(text) || values.contains(text))
        });
        let at = match (value, key) {
            (Some((_, at)), _) => at,
            (None, Some(key)) => &key.at,
            (None, None) => &service.at,
        };
        let known = context(ContextKind::ValidValue).join(", ");
        let why = match std::error::Error::source(error) {
            Some(why) => in_keys(&why.to_string()),
            None if !known.is_empty() => format!("write one of {known}"),
            None => error.kind().to_string(),
        };
        let what = match key {
            Some(key) => format!("{} {:?}: {why}", in_file(key.id), values.join(", ")),
            None => why,
        };
        self.wrong(at.clone(), what)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
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
        let config = of(super::super::EXAMPLE).expect("a configuration");
        let names: Vec<_> = config.services.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["ssh", "game"]);
        let keys = args::RunArgs::KEYS
            .into_iter()
            .chain(["instance"])
            .map(in_file);
        let missing: Vec<_> = keys
            .filter(|key| !super::super::EXAMPLE.contains(&format!("{key} = ")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        // What stands behind # is right as well.
        let commented = super::super::EXAMPLE.lines().map(|line| {
            let line = line.strip_prefix("# ").filter(|line| line.contains(" = "));
            line.unwrap_or_default().to_owned() + "\n"
        });
        let (instance, service): (Vec<_>, Vec<_>) = commented.partition(|line| {
            line.starts_with(|c| "iwdoms".contains(c))
                && !line.contains("deny")
                && !line.starts_with("on_")
        });
        let text = instance.concat()
            + super::super::EXAMPLE
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
}
