//! What may drop a client's packet on its way from the spoof namespace to the application. Hints:
//! only the spoofed connection proves.

use super::{Finding, nftables};
use crate::app::setup::is_lo_strict;

/// All there is to say, for a check.
pub fn check() -> Vec<Finding> {
    vec![rp_filter(), firewall()]
}

/// Looks at the firewall only where it matters: a large one takes its time to read.
pub fn brief() -> Vec<Finding> {
    if is_lo_strict() { check() } else { Vec::new() }
}

fn rp_filter() -> Finding {
    const SUBJECT: &str = "rp_filter";
    if is_lo_strict() {
        Finding::warn(
            SUBJECT,
            "strict on lo: clients' packets have to enter by truepeer's own device, where a firewall \
             may not expect them",
            "if that is so: sysctl -w net.ipv4.conf.all.rp_filter=2",
        )
    } else {
        Finding::ok(SUBJECT, "not strict on lo, where clients' packets enter")
    }
}

fn firewall() -> Finding {
    const SUBJECT: &str = "firewall";
    let (device, fitting) = if is_lo_strict() {
        ("truepeer0", r#"iifname "truepeer*""#)
    } else {
        ("lo", "iif lo")
    };
    match nftables::input_chain_against(device) {
        Ok(None) => Finding::ok(
            SUBJECT,
            format!("no input chain of nftables is against {device}"),
        ),
        Ok(Some(chain)) => Finding::warn(
            SUBJECT,
            format!("chain {chain} drops by default, and no rule of it accepts {device}"),
            format!("nft insert rule {chain} {fitting} accept"),
        ),
        Err(why) => Finding::warn(
            SUBJECT,
            format!("unknown: {why}"),
            "see whether the spoofed connections below work",
        ),
    }
}
