//! `truepeer allow` and `truepeer deny`: work on the pinned maps, so they need no daemon.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;

use super::{
    FAILED,
    args::{AllowArgs, AllowVerb, DenyArgs, DenyVerb, ListArgs},
    show,
};
use crate::{
    admin::{Request, ask_if_running},
    keeper,
    kernel::{self, List, Origin, Prefixes, covering},
};

pub fn allow(args: AllowArgs) -> Result<ExitCode> {
    let editor = Editor::new(List::Allow, args.instance)?;
    match args.verb {
        AllowVerb::List => editor.print(),
        AllowVerb::Add(args) => editor.add(&args.prefixes),
        AllowVerb::Remove(args) => editor.remove(&args.prefixes),
        AllowVerb::Replace(args) => editor.replace(&args.prefixes),
        AllowVerb::Test(args) => editor.test(&args.prefixes),
    }
}

pub fn deny(args: DenyArgs) -> Result<ExitCode> {
    let editor = Editor::new(List::Deny, args.instance)?;
    let outcome = match args.verb {
        Some(DenyVerb::List) => return editor.print(),
        Some(DenyVerb::Remove(args)) => return editor.remove(&args.prefixes),
        Some(DenyVerb::Test(args)) => return editor.test(&args.prefixes),
        Some(DenyVerb::Replace(args)) => editor.replace(&args.prefixes),
        Some(DenyVerb::Add(args)) => editor.add(&args.prefixes),
        None => editor.add(&args.prefixes),
    }?;
    editor.end_denied()?;
    Ok(outcome)
}

/// Shows and changes a service's part of a list.
struct Editor {
    list: List,
    instance: String,
    service: u32,
}

impl Editor {
    fn new(list: List, args: ListArgs) -> Result<Self> {
        let ids = kernel::service_ids(&args.instance)?;
        let Some(service) = ids.get(&args.service).copied() else {
            let (instance, wanted) = (&args.instance, &args.service);
            let names: Vec<_> = ids.into_keys().collect();
            bail!(
                "instance {instance} has no service {wanted}: say --service with one of {}",
                names.join(", ")
            );
        };
        Ok(Self {
            list,
            instance: args.instance,
            service,
        })
    }

    /// What the list is called, and the command that shows it.
    fn names(&self) -> (&'static str, &'static str) {
        match self.list {
            List::Allow => ("allowlist", "truepeer allow list"),
            List::Deny => ("deny list", "truepeer deny list"),
        }
    }

    fn open(&self) -> Result<Prefixes> {
        Prefixes::open(&self.instance, self.list)
    }

    /// Who only looks makes none.
    fn existing(&self) -> Result<Prefixes> {
        let found = Prefixes::find(&self.instance, self.list)?;
        found.with_context(|| {
            let (instance, (name, _)) = (&self.instance, self.names());
            format!("instance {instance} has no {name}: see `truepeer status --all`")
        })
    }

    fn print(&self) -> Result<ExitCode> {
        let entries = self.existing()?.entries()?;
        let lines = entries
            .iter()
            .filter(|entry| entry.service == self.service)
            .map(|entry| format!("{:<43} {}\n", entry.prefix.to_string(), entry.origin));
        show(lines.collect::<String>())?;
        Ok(ExitCode::SUCCESS)
    }

    /// One that the configuration has already stays the configuration's.
    fn add(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        let mut list = self.open()?;
        let before = list.entries()?;
        for prefix in prefixes {
            let known = before
                .iter()
                .any(|entry| entry.service == self.service && entry.prefix == *prefix);
            if known {
                println!("{prefix} is there already");
            } else {
                list.insert(self.service, *prefix, Origin::Live)?;
                println!("added {prefix}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn remove(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        let mut list = self.existing()?;
        let before = list.entries()?;
        let mut outcome = ExitCode::SUCCESS;
        for prefix in prefixes {
            if !list.remove(self.service, *prefix)? {
                let (name, command) = self.names();
                eprintln!("truepeer: {prefix} is not in the {name}: see `{command}`");
                outcome = ExitCode::from(FAILED);
                continue;
            }
            println!("removed {prefix}");
            if before
                .iter()
                .filter(|entry| entry.service == self.service && entry.prefix == *prefix)
                .any(|entry| entry.origin == Origin::Config)
            {
                let flags = match self.list {
                    List::Allow => "--allow or --allow-file",
                    List::Deny => "--deny or --deny-file",
                };
                println!("note: it comes from {flags}; the next start or reload brings it back");
            }
            if let Some(wider) = covering(&list.entries()?, self.service, *prefix) {
                let wider = wider.prefix;
                println!(
                    "note: {}, as {wider} covers it",
                    match self.list {
                        List::Allow => "it may still connect",
                        List::Deny => "it is still refused",
                    }
                );
            }
        }
        Ok(outcome)
    }

    fn replace(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        self.add(prefixes)?;
        let stale: Vec<_> = self
            .existing()?
            .entries()?
            .into_iter()
            .filter(|entry| entry.service == self.service && !prefixes.contains(&entry.prefix))
            .map(|entry| entry.prefix)
            .collect();
        self.remove(&stale)
    }

    fn test(&self, prefixes: &[IpNet]) -> Result<ExitCode> {
        let entries = self.existing()?.entries()?;
        let word = match self.list {
            List::Allow => "allowed",
            List::Deny => "denied",
        };
        let mut outcome = ExitCode::SUCCESS;
        for prefix in prefixes {
            if let Some(entry) = covering(&entries, self.service, *prefix) {
                println!("{word} {prefix} by {} ({})", entry.prefix, entry.origin);
            } else {
                println!("not {word} {prefix}");
                outcome = ExitCode::from(FAILED);
            }
        }
        Ok(outcome)
    }

    /// New connections are refused by the list alone; what is open, the daemon has to end.
    fn end_denied(&self) -> Result<()> {
        match ask_if_running(&self.instance, Request::EndDenied)? {
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
