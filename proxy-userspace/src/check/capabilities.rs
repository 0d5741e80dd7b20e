//! Privileges, one by one.

use super::Finding;
use crate::privileges::{self, NEEDED};

const SUBJECT: &str = "capability";

pub fn check() -> Vec<Finding> {
    let missing = match privileges::missing() {
        Ok(missing) => missing,
        Err(error) => {
            return vec![Finding::warn(
                SUBJECT,
                format!("unknown: {error:#}"),
                "go on",
            )];
        }
    };
    let finding = |needed: &privileges::Needed| {
        if missing.iter().any(|missing| missing.name == needed.name) {
            let next = format!("run as root, or give {}", needed.name);
            Finding::fail(
                SUBJECT,
                format!(
                    "{} is missing: truepeer needs it {}",
                    needed.name, needed.what_for
                ),
                next,
            )
        } else {
            Finding::ok(SUBJECT, needed.to_string())
        }
    };
    NEEDED.iter().map(finding).collect()
}
