//! `truepeer allow` and `truepeer deny`: work on the pinned maps, so they need no daemon.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use serde::Serialize;

use super::{
    FAILED,
    args::{AllowArgs, AllowVerb, DenyArgs, DenyVerb, ListArgs, ListFormat, Prefixes as Typed},
    show,
};
use crate::{
    admin::{Lists, Request, ask_if_running},
    config::{ConfigError, PrefixSource},
    keeper,
    kernel::{self, Entries, List, Origin, Prefixes, covering},
};

pub fn allow(args: AllowArgs) -> Result<ExitCode> {
    let editor = Editor::new(List::Allow, args.instance)?;
    match args.verb {
        AllowVerb::List(format) => editor.print(format),
        AllowVerb::Add(typed) => {
            let outcome = editor.add(&read(typed)?)?;
            editor.keep()?;
            Ok(outcome)
        }
        AllowVerb::Test(typed) => editor.test(&read(typed)?),
        AllowVerb::Remove(fewer) => {
            let outcome = editor.remove(&read(fewer.prefixes)?)?;
            editor.keep()?;
            editor.end_unlisted(fewer.and_close)?;
            Ok(outcome)
        }
        AllowVerb::Replace(fewer) => {
            editor.replace(&read(fewer.prefixes)?)?;
            editor.keep()?;
            editor.end_unlisted(fewer.and_close)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub fn deny(args: DenyArgs) -> Result<ExitCode> {
    let editor = Editor::new(List::Deny, args.instance)?;
    let outcome = match args.verb {
        Some(DenyVerb::List(format)) => return editor.print(format),
        Some(DenyVerb::Remove(typed)) => return editor.remove(&read(typed)?),
        Some(DenyVerb::Test(typed)) => return editor.test(&read(typed)?),
        Some(DenyVerb::Replace(typed)) => {
            editor.replace(&read(typed)?)?;
            ExitCode::SUCCESS
        }
        Some(DenyVerb::Add(typed)) => editor.add(&read(typed)?)?,
        None => editor.add(&args.prefixes)?,
    };
    editor.end(Request::EndDenied)?;
    Ok(outcome)
}

/// In order, and each once.
fn read(Typed { prefixes, file }: Typed) -> Result<Vec<IpNet>, ConfigError> {
    let source = PrefixSource {
        prefixes,
        files: file,
    };
    source.read()
}

/// Whether the lists that are here are those of the instance's daemon, if one runs. One of another version has no
/// answer to that.
fn are_the_daemons(instance: &str) -> Result<()> {
    let daemons: Option<Lists> = ask_if_running(instance, Request::Lists).unwrap_or_default();
    let Some(Lists { ids, pid }) = daemons else {
        return Ok(());
    };
    if kernel::list_ids(instance)? != ids {
        bail!(
            "instance {instance} has its lists in another mount of bpffs than the one at /sys/fs/bpf here: run this \
             where it runs, by `nsenter --target {pid} --mount truepeer ...`"
        );
    }
    Ok(())
}

/// By which a service is known.
pub fn service_id(instance: &str, service: &str) -> Result<u32> {
    let ids = kernel::service_ids(instance)?;
    if let Some(id) = ids.get(service) {
        return Ok(*id);
    }
    let names: Vec<_> = ids.into_keys().collect();
    bail!(
        "instance {instance} has no service {service}: it has {}",
        names.join(", ")
    )
}

/// Shows and changes a service's part of a list.
struct Editor {
    list: List,
    instance: String,
    service: u32,
}

#[derive(Serialize)]
struct Entry {
    prefix: IpNet,
    origin: Origin,
}

impl Editor {
    fn new(list: List, args: ListArgs) -> Result<Self> {
        are_the_daemons(&args.instance)?;
        let service = service_id(&args.instance, &args.service)?;
        Ok(Self {
            list,
            instance: args.instance,
            service,
        })
    }

    /// What the list is called, the command that shows it, and what it is made of by configuration.
    fn names(&self) -> [&'static str; 3] {
        match self.list {
            List::Allow => [
                "allowlist",
                "truepeer allow list",
                "--allow or --allow-file",
            ],
            List::Deny => ["deny list", "truepeer deny list", "--deny or --deny-file"],
        }
    }

    fn open(&self) -> Result<Prefixes> {
        Prefixes::open(&self.instance, self.list)
    }

    /// Who only looks makes none.
    fn existing(&self) -> Result<Prefixes> {
        let found = Prefixes::find(&self.instance, self.list)?;
        found.with_context(|| {
            let (instance, [name, ..]) = (&self.instance, self.names());
            format!("instance {instance} has no {name}: see `truepeer status --all`")
        })
    }

    fn entries(&self) -> Result<Entries> {
        self.existing()?.of(self.service)
    }

    fn print(&self, format: ListFormat) -> Result<ExitCode> {
        let entries = self.entries()?.into_iter();
        if format.json {
            let entry = |(prefix, origin)| Entry { prefix, origin };
            let entries: Vec<_> = entries.map(entry).collect();
            show(serde_json::to_string(&entries)? + "\n")?;
        } else {
            let line = |(prefix, origin): (IpNet, Origin)| {
                let prefix = prefix.to_string();
                format!("{prefix:<43} {origin}\n")
            };
            show(entries.map(line).collect::<String>())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// One that the configuration has already stays the configuration's.
    fn add(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        let mut list = self.open()?;
        let before = list.of(self.service)?;
        let is_new = |prefix: &IpNet| !before.contains_key(prefix);
        let new: Vec<_> = prefixes.iter().copied().filter(is_new).collect();
        list.insert(self.service, &new, Origin::Live)?;
        let line = |prefix| match is_new(prefix) {
            true => format!("added {prefix}\n"),
            false => format!("{prefix} is there already\n"),
        };
        show(prefixes.iter().map(line).collect::<String>())?;
        Ok(ExitCode::SUCCESS)
    }

    fn remove(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        let mut list = self.existing()?;
        let before = list.of(self.service)?;
        list.remove(self.service, prefixes)?;
        let mut after = before.clone();
        for prefix in prefixes {
            after.remove(prefix);
        }
        let [name, command, configured] = self.names();
        let still = match self.list {
            List::Allow => "it may still connect",
            List::Deny => "it is still refused",
        };
        let mut outcome = ExitCode::SUCCESS;
        for prefix in prefixes {
            let Some(origin) = before.get(prefix) else {
                eprintln!("truepeer: {prefix} is not in the {name}: see `{command}`");
                outcome = ExitCode::from(FAILED);
                continue;
            };
            println!("removed {prefix}");
            if *origin == Origin::Config {
                println!(
                    "note: it comes from {configured}; the next start or reload brings it back"
                );
            }
            if let Some((wider, _)) = covering(&after, *prefix) {
                println!("note: {still}, as {wider} covers it");
            }
        }
        Ok(outcome)
    }

    fn replace(&self, prefixes: &[IpNet]) -> Result<()> {
        let replaced = self.existing()?.replace(self.service, prefixes)?;
        let (added, removed, kept) = (replaced.added, replaced.removed, replaced.kept);
        println!("added {added}, removed {removed}, kept {kept}");
        if replaced.configured > 0 {
            let (count, [.., configured]) = (replaced.configured, self.names());
            println!(
                "note: {count} of those removed come from {configured}; the next start or reload brings them back"
            );
        }
        Ok(())
    }

    fn test(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        let entries = self.entries()?;
        let word = match self.list {
            List::Allow => "allowed",
            List::Deny => "denied",
        };
        let mut outcome = ExitCode::SUCCESS;
        for prefix in prefixes {
            if let Some((by, origin)) = covering(&entries, *prefix) {
                println!("{word} {prefix} by {by} ({origin})");
            } else {
                println!("not {word} {prefix}");
                outcome = ExitCode::from(FAILED);
            }
        }
        Ok(outcome)
    }

    /// In the service's file, if it has one: without a daemon its next start sees to that.
    fn keep(&self) -> Result<()> {
        let kept: Option<Result<(), String>> = ask_if_running(&self.instance, Request::KeepLists)?;
        kept.unwrap_or(Ok(())).map_err(|why| {
            anyhow!("the list has changed, but it isn't kept for the next boot: {why}")
        })
    }

    fn end_unlisted(&self, wanted: bool) -> Result<()> {
        let service = self.service;
        match wanted {
            true => self.end(Request::EndUnlisted { service }),
            false => Ok(()),
        }
    }

    /// New connections are refused by the list alone; what is open, the daemon has to end.
    fn end(&self, request: Request) -> Result<()> {
        match ask_if_running(&self.instance, request)? {
            None if keeper::is_there(&self.instance)? => println!(
                "note: no daemon runs: what is open goes on until the next start, or its keeper's end"
            ),
            Some(Ok::<usize, String>(0)) | None => {}
            Some(Ok(count)) => println!("ended {count} open connections"),
            Some(Err(why)) => {
                return Err(anyhow!(
                    "new connections are refused, but open ones go on: {why}"
                ));
            }
        }
        Ok(())
    }
}
