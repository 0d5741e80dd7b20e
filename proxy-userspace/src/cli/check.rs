//! `truepeer check`: what would keep `truepeer run` with the same flags from working.

use std::process::ExitCode;

use anyhow::Result;

use super::{FAILED, args::CheckArgs, run, show};
use crate::{
    app,
    check::{self, Finding, Status},
    kernel, telemetry,
};

pub fn check(args: CheckArgs) -> Result<ExitCode> {
    let verbose = args.run.verbose;
    let _log = (verbose > 0)
        .then(|| telemetry::init(verbose))
        .transpose()?;
    let mut config = run::config(args.run)?;
    if args.config_only {
        let count = config.services.len();
        show(format!(
            "ok: {count} service{}\n",
            if count == 1 { "" } else { "s" }
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    app::lists::read(&config)?;
    // Whom its lists deny, an instance that has them says.
    let ids = kernel::service_ids(&config.instance).unwrap_or_default();
    for (service, nobodys) in config.services.iter_mut().zip((0..=u32::MAX).rev()) {
        service.id = ids.get(&service.name).copied().unwrap_or(nobodys);
    }
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
