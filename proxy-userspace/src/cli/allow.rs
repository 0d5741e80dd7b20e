//! `truepeer allow`: works on the pinned maps, so it needs no daemon.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use super::{
    FAILED,
    args::{AllowArgs, AllowVerb},
    show,
};
use crate::kernel::{Allowlist, Origin, covering};

/// The one service of a daemon that is set up by flags.
const DEFAULT_SERVICE: (&str, u32) = ("default", 0);

pub fn allow(args: AllowArgs) -> Result<ExitCode> {
    let (name, service) = DEFAULT_SERVICE;
    if args.instance.service != name {
        bail!(
            "no service {}: this instance has {name}",
            args.instance.service
        );
    }
    let instance = &args.instance.instance;
    match args.verb {
        AllowVerb::List => print(&existing(instance)?, service),
        AllowVerb::Add(args) => add(&mut Allowlist::open(instance)?, service, &args.prefixes),
        AllowVerb::Remove(args) => remove(&mut existing(instance)?, service, &args.prefixes),
        AllowVerb::Replace(args) => {
            replace(&mut Allowlist::open(instance)?, service, &args.prefixes)
        }
        AllowVerb::Test(args) => test(&existing(instance)?, service, &args.prefixes),
    }
}

/// Who only looks makes none.
fn existing(instance: &str) -> Result<Allowlist> {
    let found = Allowlist::find(instance)?;
    found.with_context(|| {
        format!("instance {instance} has no allowlist: see `truepeer status --all`")
    })
}

fn print(list: &Allowlist, service: u32) -> Result<ExitCode> {
    let entries = list.entries()?;
    let lines = entries
        .iter()
        .filter(|entry| entry.service == service)
        .map(|entry| format!("{:<43} {}\n", entry.prefix.to_string(), entry.origin));
    show(lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// One that the configuration has already stays the configuration's.
fn add(list: &mut Allowlist, service: u32, prefixes: &[IpNet]) -> Result<ExitCode> {
    let before = list.entries()?;
    for prefix in prefixes {
        let known = before
            .iter()
            .any(|entry| entry.service == service && entry.prefix == *prefix);
        if known {
            println!("{prefix} is there already");
        } else {
            list.insert(service, *prefix, Origin::Live)?;
            println!("added {prefix}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(list: &mut Allowlist, service: u32, prefixes: &[IpNet]) -> Result<ExitCode> {
    let before = list.entries()?;
    let mut outcome = ExitCode::SUCCESS;
    for prefix in prefixes {
        if !list.remove(service, *prefix)? {
            eprintln!("truepeer: {prefix} is not in the allowlist: see `truepeer allow list`");
            outcome = ExitCode::from(FAILED);
            continue;
        }
        println!("removed {prefix}");
        if before
            .iter()
            .any(|entry| entry.prefix == *prefix && entry.origin == Origin::Config)
        {
            println!(
                "note: it comes from --allow or --allow-file; the next start or reload brings it back"
            );
        }
        if let Some(wider) = covering(&list.entries()?, service, *prefix) {
            println!("note: it may still connect, as {} covers it", wider.prefix);
        }
    }
    Ok(outcome)
}

fn replace(list: &mut Allowlist, service: u32, prefixes: &[IpNet]) -> Result<ExitCode> {
    add(list, service, prefixes)?;
    let stale: Vec<_> = list
        .entries()?
        .into_iter()
        .filter(|entry| entry.service == service && !prefixes.contains(&entry.prefix))
        .map(|entry| entry.prefix)
        .collect();
    remove(list, service, &stale)
}

fn test(list: &Allowlist, service: u32, prefixes: &[IpNet]) -> Result<ExitCode> {
    let entries = list.entries()?;
    let mut outcome = ExitCode::SUCCESS;
    for prefix in prefixes {
        if let Some(entry) = covering(&entries, service, *prefix) {
            println!("allowed {prefix} by {} ({})", entry.prefix, entry.origin);
        } else {
            println!("not allowed {prefix}");
            outcome = ExitCode::from(FAILED);
        }
    }
    Ok(outcome)
}
