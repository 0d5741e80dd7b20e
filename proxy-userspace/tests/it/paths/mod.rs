//! What both ends of a connection may count on, whichever path it takes: each promise is a row that
//! runs by both paths and in both families, as in `paths::aborts::when_idle::direct::v4`. A row fails
//! unless its connections really went by the path that it names. `trials` and what stands beside it
//! are for the direct path alone: networks, hosts and attackers of the worse kind.
//!
//! Balancer and client are of one family here, and the app is on this host, as direct needs it.

mod aborts;
mod accounts;
mod blind;
mod bound;
pub mod closes;
pub mod counted;
mod denied;
mod devices;
pub mod differential;
mod down;
mod drain;
mod fallback;
mod firewalls;
mod floods;
mod forged;
mod headers;
mod identity;
mod instant;
mod integrity;
mod killed;
mod limits;
mod loss;
pub mod mtu;
mod multipath;
mod numbers;
mod options;
mod reflection;
mod reuse;
mod several;
mod short;
mod site;
mod stalls;
mod strangers;
pub mod sums;
mod targets;
mod trials;
mod upkeep;
mod urgent;

use std::net::SocketAddr;

use crate::lab::addr::Pair;
use site::{Plan, Site};

const MIB: usize = 1 << 20;
/// A port that no kernel picks by itself.
const CLIENT_PORT: u16 = 20_300;

/// [`Pair::v4`] or [`Pair::v6`].
type Family = fn(Pair, u16) -> SocketAddr;

/// Rows by both paths, of functions that take a [`Plan`].
macro_rules! paths {
    ($($(#[$meta:meta])* $name:ident;)*) => { $(
        $(#[$meta])*
        mod $name {
            crate::paths::families!($name direct);
            crate::paths::families!($name daemon);
        }
    )* };
}

/// Rows by one of them: `direct`, `daemon`, or `falls_back` for connections that the daemon has to
/// carry though it isn't told so.
macro_rules! only {
    ($path:ident: $($(#[$meta:meta])* $name:ident;)*) => { $(
        $(#[$meta])*
        mod $name {
            crate::paths::families!($name $path);
        }
    )* };
}

macro_rules! families {
    ($name:ident $path:ident) => {
        mod $path {
            use crate::lab::addr::Pair;
            use crate::paths::site::Plan;

            #[test]
            fn v4() -> anyhow::Result<()> {
                super::super::$name(Plan::$path(Pair::v4))
            }

            #[test]
            fn v6() -> anyhow::Result<()> {
                super::super::$name(Plan::$path(Pair::v6))
            }
        }
    };
}

use {families, only, paths};
