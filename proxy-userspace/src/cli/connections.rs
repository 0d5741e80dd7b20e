//! `truepeer connections`.

use std::process::ExitCode;

use anyhow::Result;

use super::{args::ShowArgs, show};
use crate::admin::{ConnectionStatus, Request, Table, ask};

pub fn connections(args: &ShowArgs) -> Result<ExitCode> {
    let open: Vec<ConnectionStatus> = ask(&args.instance.instance, Request::Connections)?;
    if args.json {
        show(serde_json::to_string(&open)? + "\n")?;
    } else {
        show(Table(&open))?;
    }
    Ok(ExitCode::SUCCESS)
}
