//! rp_filter of every kind: 0 is off, 1 strict, 2 loose; the kernel takes the larger of `all` and
//! the device's. IPv6 has none (firewalls do it: see `firewalls`).

use anyhow::Result;

use super::site::sysctl;
use super::{holds, rows};
use crate::lab::Lab;

rows! {
    off: |lab| set(lab, &[("all", "0"), ("default", "0"), ("edge", "0"), ("lo", "0")])
        => wildcard_v4 loopback_v4 address_v4 dual_v4;
    loose_on_all: |lab| set(lab, &[("all", "2")]) => wildcard_v4 loopback_v4 address_v4 dual_v4;
    strict_on_the_uplink: |lab| set(lab, &[("edge", "1")])
        => wildcard_v4 loopback_v4 address_v4 dual_v4;
    strict_on_all_but_loose_on_lo: |lab| set(lab, &[("all", "1"), ("lo", "2")])
        => wildcard_v4 loopback_v4 address_v4 dual_v4;
    /// What our own device starts with.
    strict_on_new_devices: |lab| set(lab, &[("default", "1")])
        => wildcard_v4 loopback_v4 address_v4 dual_v4;
}

/// Where lo takes nothing of clients that aren't behind it.
mod by_the_daemon {
    use super::super::falls_back as holds;
    use super::*;

    rows! {
        strict_on_all: |lab| set(lab, &[("all", "1")]) => wildcard_v4 loopback_v4 address_v4 dual_v4;
        strict_on_lo: |lab| set(lab, &[("lo", "1")]) => wildcard_v4 loopback_v4 address_v4 dual_v4;
        strict_everywhere: |lab| set(lab, &[("all", "1"), ("default", "1"), ("edge", "1"), ("lo", "1")])
            => wildcard_v4 loopback_v4 address_v4 dual_v4;
    }
}

fn set(lab: &Lab, values: &[(&str, &str)]) -> Result<()> {
    values.iter().try_for_each(|(device, value)| {
        let key = format!("ipv4/conf/{device}/rp_filter");
        sysctl(&lab.host, &key, value)
    })
}
