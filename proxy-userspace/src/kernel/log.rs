//! What the programs log goes on to `tracing` (by way of the `log` crate, which aya-log speaks).

use anyhow::{Context, Result};
use aya_log::EbpfLogger;

use crate::sys;

pub fn forward(logger: EbpfLogger<&'static dyn log::Log>) -> Result<()> {
    let mut logger = sys::readable(logger).context("watching the programs' log")?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}
