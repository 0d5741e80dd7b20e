//! `truepeer status` and `truepeer reload`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    FAILED,
    args::{InstanceArgs, ShowArgs},
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

pub fn reload(args: &InstanceArgs) -> Result<ExitCode> {
    match ask(&args.instance, Request::Reload)? {
        Reloaded::Prefixes(count) => {
            println!("reloaded: {count} prefixes in the lists' configuration");
            Ok(ExitCode::SUCCESS)
        }
        Reloaded::Refused(why) => {
            eprintln!("truepeer: not reloaded, the old lists stay: {why}");
            Ok(ExitCode::from(FAILED))
        }
    }
}
