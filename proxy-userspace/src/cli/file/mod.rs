//! A configuration file: each key is a flag of `run`, with that one's words. Where a wrong one stands is told with it.

#[cfg(test)]
mod differences;
mod document;
mod keys;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fs, path::Path};

use clap::{
    FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use self::{
    document::{File, Key, Table, Tables, run_command},
    keys::{flag, id_in, in_file, in_keys},
};
use super::{args::RunArgs, run};
use crate::config::{Config, ConfigError, Service};

/// Of services of UDP alone: in defaults, others pass them by.
const OF_UDP: [&str; 2] = ["close_after", "maxconn"];

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
        let typed = ["truepeer run".to_owned()].into_iter().chain(typed);
        let parsed = run_command().try_get_matches_from(typed.chain(service.arguments()));
        let parsed = parsed.and_then(|matches| RunArgs::from_arg_matches(&matches));
        let places = || {
            let all = service.keys.iter().chain(defaults.iter().copied());
            all.chain(&tables.instance.keys)
        };
        let args = parsed.map_err(|error| self.mistyped(&error, service, name, places()))?;
        if args.allow.is_empty() && args.allow_file.is_empty() {
            let what = format!(
                "service {name} has no allowlist: name the balancers by allow = [\"CIDR\"] or allow_files = [\"FILE\"]"
            );
            return Err(self.wrong(service.at.clone(), what));
        }
        run::resolve(args).map_err(|error| {
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
