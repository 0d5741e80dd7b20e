//! TCP options that one leg has and the other lacks, or both lack. Whether such a connection is
//! handed over is the daemon's affair; what it carries arrives.

use anyhow::Result;

use super::{CLIENT_PORT, Family, MIB, Plan, families};
use crate::lab::Lab;
use crate::lab::netns::Netns;
use crate::lab::talk::Side;
use crate::steering::site::sysctl;

macro_rules! options {
    ($($name:ident: $key:literal $value:literal;)*) => { $(
        mod $name {
            use super::*;

            families! {
                at_the_balancer;
                at_the_host;
            }

            fn at_the_balancer(family: Family) -> Result<()> {
                arrives(family, &|lab| set(&lab.edge))
            }

            /// Which is at the other end of the balancer's leg, and at the app's end of its own.
            fn at_the_host(family: Family) -> Result<()> {
                arrives(family, &|lab| set(&lab.host))
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
    large_windows: "tcp_rmem" "4096 131072 268435456";
}

fn arrives(family: Family, set_up: &dyn Fn(&Lab) -> Result<()>) -> Result<()> {
    let mut plan = Plan::new(family);
    plan.set_up = set_up;
    let site = plan.start()?;
    let mut talk = site.open(CLIENT_PORT)?;
    talk.ping_pong(64, 64)?;
    talk.ping_pong(4, 10_000)?;
    talk.transfer(&Side::BOTH, 8 * MIB)
}
