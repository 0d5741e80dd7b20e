//! `truepeer check`: what would keep `truepeer run` with the same flags from working.

use std::process::ExitCode;

use anyhow::Result;

use super::{FAILED, args::CheckArgs, run, show};
use crate::{
    app,
    check::{self, Finding, Status},
    telemetry,
};

pub fn check(args: CheckArgs) -> Result<ExitCode> {
    if args.run.verbose > 0 {
        telemetry::init(args.run.verbose);
    }
    let config = run::resolve(args.run);
    config.check()?;
    app::read_allowlists(&config)?;
    let findings = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(check::full(&config, &args.client))?;
    if args.json {
        show(serde_json::to_string_pretty(&findings)? + "\n")?;
    } else {
        let lines = findings.iter().map(|finding| format!("{finding}\n"));
        show(lines.collect::<String>())?;
    }
    let failed = |finding: &Finding| finding.status == Status::Fail;
    Ok(if findings.iter().any(failed) {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}
