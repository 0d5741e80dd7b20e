//! Whether devices can be guarded.

use super::Finding;
use crate::{
    admin,
    config::Config,
    netns::{Driver, driver},
};

/// `running`: what the instance says of itself, if it runs.
pub async fn check(config: &Config, running: Option<&admin::Status>) -> Vec<Finding> {
    let ours = running.map_or(&[][..], |status| &status.guards);
    let mut findings = Vec::new();
    for device in config.guarded().keys() {
        let is_ours = ours
            .iter()
            .any(|guard| guard.device == *device && guard.is_guarded());
        findings.push(of(device, is_ours).await);
    }
    findings
}

async fn of(device: &str, is_ours: bool) -> Finding {
    const SUBJECT: &str = "guard";
    match driver(device).await {
        Ok(Some(Driver {
            is_ethernet: false, ..
        })) => Finding::fail(
            SUBJECT,
            format!("{device} has no Ethernet header"),
            format!("leave {device} out of --guard"),
        ),
        Ok(Some(Driver {
            has_program: true, ..
        })) if !is_ours => Finding::fail(
            SUBJECT,
            format!("{device} has a program of XDP already, somebody else's"),
            format!(
                "take it off if it isn't needed (`bpftool net` tells whose it is), or leave {device} out of --guard"
            ),
        ),
        Ok(Some(_)) => Finding::ok(SUBJECT, format!("{device} can be guarded")),
        Ok(None) => Finding::warn(
            SUBJECT,
            format!("there is no device {device}: it is guarded once it is there"),
            "see `ip link` for its name",
        ),
        Err(error) => Finding::warn(SUBJECT, format!("unknown: {error:#}"), "see `ip link`"),
    }
}
