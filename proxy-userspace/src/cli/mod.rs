//! The command line: what was typed, and which exit code says how it went.

mod address;
mod args;
mod check;
mod connections;
#[cfg(test)]
mod documents;
mod each;
mod file;
mod instances;
mod prefixes;
mod run;
mod status;
mod value;

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;

use crate::{config::ConfigError, keeper, telemetry};

/// A configuration file that has everything.
const EXAMPLE: &str = include_str!("example.toml");

/// Failed while running, or a check or test failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; clap uses the same.
const USAGE: u8 = 2;

/// Runs the command line that the process was started with.
pub fn main() -> ExitCode {
    let outcome = match args::Cli::parse().command {
        args::Command::Run(args) => run::run(*args),
        args::Command::Check(args) => check::check(*args),
        args::Command::Allow(args) => prefixes::allow(args),
        args::Command::Deny(args) => prefixes::deny(args),
        args::Command::Status(args) if args.all => instances::list(args.show.json),
        args::Command::Status(args) => status::status(&args.show),
        args::Command::Connections(args) => connections::connections(&args),
        args::Command::ExampleConfig => show(EXAMPLE)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        args::Command::Drain(args) => status::drain(&args, true),
        args::Command::Undrain(args) => status::drain(&args, false),
        args::Command::Reload(args) => status::reload(&args),
        args::Command::Forget(args) => instances::forget(&args),
        args::Command::Keeper(args) => keep(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("truepeer: {error:#}");
        ExitCode::from(if error.is::<ConfigError>() {
            USAGE
        } else {
            FAILED
        })
    })
}

/// Prints what was asked for. Who has seen enough of it, as `| head` has, makes no error.
fn show(what: impl Display) -> io::Result<()> {
    match io::stdout().write_all(what.to_string().as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn keep(args: &args::InstanceArgs) -> anyhow::Result<ExitCode> {
    let _log = telemetry::init(0)?;
    keeper::main(&args.instance)?;
    Ok(ExitCode::SUCCESS)
}
