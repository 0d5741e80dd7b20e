//! TCP options that one end has and the other lacks, or both lack.

use anyhow::Result;

use super::{CLIENT_PORT, MIB, Plan, paths};
use crate::lab::Lab;
use crate::lab::netns::Netns;
use crate::lab::talk::Side;
use crate::steering::site::sysctl;

macro_rules! options {
    ($($(#[$meta:meta])* $name:ident: $key:literal $value:literal;)*) => { $(
        $(#[$meta])*
        mod $name {
            use super::*;

            paths! {
                at_the_balancer;
                at_the_host;
            }

            fn at_the_balancer(plan: Plan<'_>) -> Result<()> {
                arrives(plan, &|lab| set(&lab.edge))
            }

            fn at_the_host(plan: Plan<'_>) -> Result<()> {
                arrives(plan, &|lab| set(&lab.host))
            }

            fn set(netns: &Netns) -> Result<()> {
                sysctl(netns, concat!("ipv4/", $key), $value)
            }
        }
    )* };
}

options! {
    no_timestamps: "tcp_timestamps" "0";
    timestamps_without_an_offset: "tcp_timestamps" "2";
    no_sack: "tcp_sack" "0";
    no_window_scaling: "tcp_window_scaling" "0";
    ecn: "tcp_ecn" "1";
    small_windows: "tcp_rmem" "4096 16384 16384";
    /// The largest scale there is, so that what is left of a small window is below one unit of it.
    windows_below_one_unit: "tcp_rmem" "4096 8192 1073741824";
    large_windows: "tcp_rmem" "4096 131072 268435456";
}

fn arrives(plan: Plan<'_>, set_up: &dyn Fn(&Lab) -> Result<()>) -> Result<()> {
    let site = Plan { set_up, ..plan }.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    talk.ping_pong(64, 64)?;
    talk.ping_pong(4, 10_000)?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}
