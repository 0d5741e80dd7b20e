//! What the running daemon is asked: `truepeer status`, `reload`, `drain` and `undrain`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use super::{
    FAILED,
    args::{DrainArgs, ReloadArgs, ShowArgs},
    prefixes::service_id,
    show,
};
use crate::admin::{Reloaded, Request, Status, ask};

pub fn status(args: &ShowArgs) -> Result<ExitCode> {
    let status: Status = ask(&args.instance.instance, Request::Status)?;
    if args.json {
        show(serde_json::to_string(&status)? + "\n")?;
    } else {
        show(status)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn drain(args: &DrainArgs, drained: bool) -> Result<ExitCode> {
    let instance = &args.instance.instance;
    let service = args.service.as_deref();
    let id = service.map(|name| service_id(instance, name)).transpose()?;
    let open: Result<usize, String> = ask(
        instance,
        Request::Drain {
            service: id,
            drained,
        },
    )?;
    let open = open.map_err(|error| anyhow!(error))?;
    let what = service.map_or_else(
        || "all services".to_owned(),
        |name| format!("service {name}"),
    );
    show(match drained {
        true => format!("drained {what}: {open} open connections and flows go on\n"),
        false => format!("{what}: serving again\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    let dry_run = args.dry_run;
    match ask(&args.instance.instance, Request::Reload { dry_run })? {
        Reloaded::Done { prefixes, changes } => {
            let done = if dry_run { "would reload" } else { "reloaded" };
            let mut text = format!("{done}: {prefixes} prefixes in the lists' configuration\n");
            for change in changes {
                text += &format!("{change}\n");
            }
            show(text)?;
            Ok(ExitCode::SUCCESS)
        }
        Reloaded::Refused(why) => {
            let not = if dry_run {
                "it would not reload"
            } else {
                "not reloaded"
            };
            eprintln!("truepeer: {not}, all stays as it was: {why}");
            Ok(ExitCode::from(FAILED))
        }
    }
}
