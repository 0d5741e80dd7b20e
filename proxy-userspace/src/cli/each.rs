//! How much each balancer and each client may have.

use std::num::NonZeroUsize;

use clap::Args;
use proxy_common::limits::{Limit, Limits};

use super::value::count;

/// What each balancer's address and each client's may have of a service, whichever path it takes.
#[derive(Clone, Copy, Debug, Args)]
pub struct EachArgs {
    /// Most connections of a balancer's address at one time; more are reset. UDP: most clients of its that are
    /// remembered, as of --maxconn [default: no limit; UDP: 65536, or --maxconn]
    #[arg(long, value_name = "N", value_parser = count)]
    pub maxconn_per_balancer: Option<NonZeroUsize>,
    /// Most connections of a client's address at one time, of all balancers together; more are reset. UDP: most of its
    /// ports that are remembered; a new one takes the place of an idle one [default: no limit]
    #[arg(long, value_name = "N", value_parser = count)]
    pub maxconn_per_client: Option<NonZeroUsize>,
    /// Most new connections of a balancer's address in a second, which may come at once; more are reset. UDP: most new
    /// clients; datagrams of more are dropped [default: no limit]
    #[arg(long, value_name = "N", value_parser = count)]
    pub maxconnrate_per_balancer: Option<NonZeroUsize>,
    /// The same of a client's address, of all balancers together [default: no limit]
    #[arg(long, value_name = "N", value_parser = count)]
    pub maxconnrate_per_client: Option<NonZeroUsize>,
}

impl EachArgs {
    pub fn limits(&self, is_udp: bool) -> Limits {
        // More than there can be is no limit that anything meets.
        let number = |given: Option<NonZeroUsize>| {
            given.map_or(0, |it| u32::try_from(it.get()).unwrap_or(u32::MAX))
        };
        // UDP's flows are in rings, whose sizes are bounded anyway.
        let per_balancer = self.maxconn_per_balancer.filter(|_| !is_udp);
        Limits {
            balancer: Limit {
                most: number(per_balancer),
                new_per_second: number(self.maxconnrate_per_balancer),
            },
            client: Limit {
                most: number(self.maxconn_per_client),
                new_per_second: number(self.maxconnrate_per_client),
            },
        }
    }
}
