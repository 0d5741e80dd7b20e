//! What a file has, and where it stands there.

use std::{borrow::Cow, net::SocketAddr, ops::Range, path::Path};

use clap::{Args as _, Command};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    super::{args::RunArgs, value},
    keys::{argument, flag, in_file, unknown},
};
use crate::config::ConfigError;

/// Of all services together.
const INSTANCE: [&str; 9] = [
    "direct",
    "drain_timeout",
    "instance",
    "maxconn",
    "orphan_timeout",
    "status_group",
    "steer4",
    "steer6",
    "workers",
];
/// What each service has by itself.
const OWN: [&str; 4] = ["allow_state", "listen", "target4", "target6"];

/// As it was written.
pub struct File<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

pub struct Tables {
    pub instance: Table,
    pub defaults: Table,
    pub services: Vec<Table>,
}

/// Keys and their values, and where they stand.
#[derive(Default)]
pub struct Table {
    pub at: Range<usize>,
    pub name: Option<(String, Range<usize>)>,
    pub keys: Vec<Key>,
}

pub struct Key {
    /// As its flag is called, with underscores.
    pub id: &'static str,
    pub at: Range<usize>,
    pub values: Vec<(String, Range<usize>)>,
}

impl Tables {
    /// The last value that is an address which these words name.
    pub fn place_of_address(&self, words: &str) -> Range<usize> {
        let keys = self.services.iter().flat_map(|service| &service.keys);
        let values = keys
            .filter(|key| OWN.contains(&key.id))
            .flat_map(|key| &key.values);
        let is_named = |text: &str| {
            let address = text.parse::<SocketAddr>();
            address.is_ok_and(|address| {
                let address = address.to_string();
                let mut words = words.split_whitespace();
                words.any(|word| word.trim_end_matches([',', ':']) == address)
            })
        };
        let mut named = values.filter(|(text, _)| is_named(text));
        named.next_back().map_or(0..0, |(_, at)| at.clone())
    }
}

impl Table {
    pub fn find(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub fn arguments(&self) -> impl Iterator<Item = String> {
        self.keys.iter().flat_map(Key::arguments)
    }
}

impl Key {
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        let values = self.values.iter();
        values.map(|(value, _)| format!("{}={value}", flag(self.id)))
    }
}

impl File<'_> {
    pub fn wrong(&self, at: Range<usize>, what: impl Into<String>) -> ConfigError {
        let before = self.text.get(..at.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::InFile {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
        }
    }

    pub fn tables(&self) -> Result<Tables, ConfigError> {
        let document = DeTable::parse(self.text).map_err(|error| {
            self.wrong(error.span().unwrap_or_default(), error.message().to_owned())
        })?;
        let command = run_command();
        let mut tables = Tables {
            instance: Table::default(),
            defaults: Table::default(),
            services: Vec::new(),
        };
        for (key, value) in document.get_ref() {
            match (&**key.get_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(table)) => {
                    tables.defaults = self.table(&command, value.span(), table)?;
                    self.are_defaults(&tables.defaults)?;
                }
                ("service", DeValue::Array(all)) => {
                    for service in all.iter() {
                        let DeValue::Table(table) = service.get_ref() else {
                            return Err(self
                                .wrong(service.span(), "a service is a table: write [[service]]"));
                        };
                        tables
                            .services
                            .push(self.table(&command, service.span(), table)?);
                    }
                }
                ("defaults", _) => {
                    return Err(self.wrong(key.span(), "defaults is a table: write [defaults]"));
                }
                ("name", _) => {
                    let what = "name is each service's own: write it below [[service]]";
                    return Err(self.wrong(key.span(), what));
                }
                ("service" | "services", _) => {
                    return Err(
                        self.wrong(key.span(), "each service is a table: write [[service]]")
                    );
                }
                _ => {
                    let key = self.key(&command, key, value)?;
                    if !INSTANCE.contains(&key.id) {
                        let what = format!(
                            "{} is a service's: write it below [[service]], or for all of them below [defaults]",
                            in_file(key.id)
                        );
                        return Err(self.wrong(key.at, what));
                    }
                    tables.instance.keys.push(key);
                }
            }
        }
        Ok(tables)
    }

    fn are_defaults(&self, defaults: &Table) -> Result<(), ConfigError> {
        let own = defaults.keys.iter().find(|key| OWN.contains(&key.id));
        let own = own.map(|key| (in_file(key.id), key.at.clone()));
        let name = defaults
            .name
            .as_ref()
            .map(|(_, at)| ("name".to_owned(), at.clone()));
        match own.or(name) {
            Some((key, at)) => Err(self.wrong(
                at,
                format!("{key} is each service's own: write it below [[service]]"),
            )),
            None => Ok(()),
        }
    }

    fn table(
        &self,
        command: &Command,
        at: Range<usize>,
        table: &DeTable<'_>,
    ) -> Result<Table, ConfigError> {
        let mut read = Table {
            at,
            ..Table::default()
        };
        for (key, value) in table {
            if key.get_ref() == "name" {
                let name = value.get_ref().as_str().map(str::to_owned);
                let name = name.and_then(|name| value::name(&name).ok());
                let what = "a service's name has up to 64 letters, digits, - and _, in quotes";
                let name = name.ok_or_else(|| self.wrong(value.span(), what))?;
                read.name = Some((name, value.span()));
                continue;
            }
            let key = self.key(command, key, value)?;
            if INSTANCE.contains(&key.id) && key.id != "maxconn" {
                let what = format!(
                    "{} is of all services together: write it above the first [[service]] or [defaults]",
                    in_file(key.id)
                );
                return Err(self.wrong(key.at, what));
            }
            read.keys.push(key);
        }
        Ok(read)
    }

    fn key(
        &self,
        command: &Command,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Key, ConfigError> {
        let Some((id, argument)) = argument(command, key.get_ref()) else {
            return Err(self.wrong(key.span(), unknown(key.get_ref())));
        };
        let is_list = argument
            .get_num_args()
            .is_some_and(|count| count.max_values() > 1);
        let values = match value.get_ref() {
            DeValue::Array(values) if is_list => {
                values.iter().map(|value| self.value(value)).collect()
            }
            DeValue::Array(_) => {
                Err(self.wrong(value.span(), format!("{} has one value", key.get_ref())))
            }
            _ => self.value(value).map(|value| vec![value]),
        };
        Ok(Key {
            id,
            at: key.span(),
            values: values?,
        })
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Result<(String, Range<usize>), ConfigError> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            other => {
                let what = format!(
                    "{} can't be taken here: write a text in quotes, or a number",
                    other.type_str()
                );
                return Err(self.wrong(value.span(), what));
            }
        };
        Ok((text, value.span()))
    }
}
/// What takes the flags.
pub fn run_command() -> Command {
    RunArgs::augment_args(Command::new("truepeer run"))
}
