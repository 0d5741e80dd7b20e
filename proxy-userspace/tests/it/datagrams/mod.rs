//! UDP: each promise is a row that runs by both paths and in both families, as in
//! `datagrams::apps::on_loopback::direct::v4`. A row fails unless its datagrams really went by the path
//! that it names, and if anything leaks: each ends with [`Site::end`].

mod any;
mod apps;
mod bound;
mod check;
mod classes;
mod clients;
pub mod counted;
mod crowd;
mod devices;
mod differential;
pub mod dns;
mod dnssec;
mod dtls;
mod each;
pub mod errors;
mod firsts;
mod floods;
mod instances;
mod limits;
mod link_local;
mod links;
mod lives;
mod lost;
mod mtu;
pub mod name_servers;
mod named;
mod narrow;
mod nat;
mod options;
mod other_family;
mod outsiders;
mod pieces;
mod quic;
mod quic_peers;
mod refused;
mod same_device;
mod scripts;
mod site;
mod sizes;
mod stated;
mod sums;
mod take_over;
mod unreached;
mod uplinks;
pub mod ways;

/// Rows by both paths, of functions that take a [`site::Plan`].
macro_rules! rows {
    ($($(#[$meta:meta])* $name:ident;)*) => { $(
        $(#[$meta])*
        mod $name {
            crate::datagrams::families!($name direct Direct);
            crate::datagrams::families!($name daemon Daemon);
        }
    )* };
}

macro_rules! families {
    ($name:ident $module:ident $path:ident) => {
        mod $module {
            use crate::datagrams::site::Plan;
            use crate::lab::addr::Pair;
            use crate::lab::path::Path;

            #[test]
            fn v4() -> anyhow::Result<()> {
                super::super::$name(Plan::new(Path::$path, Pair::v4))
            }

            #[test]
            fn v6() -> anyhow::Result<()> {
                super::super::$name(Plan::new(Path::$path, Pair::v6))
            }
        }
    };
}

use {families, rows};
