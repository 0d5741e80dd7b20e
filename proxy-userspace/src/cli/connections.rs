//! `truepeer connections`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;

use super::args::ShowArgs;
use crate::admin::{ConnectionStatus, Request, Table, ask};

pub fn connections(args: &ShowArgs) -> Result<ExitCode> {
    let open: Vec<ConnectionStatus> = ask(&args.instance.instance, Request::Connections)?;
    let text = if args.json {
        serde_json::to_string(&open)? + "\n"
    } else {
        Table(&open).to_string()
    };
    match io::stdout().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::SUCCESS)
}
