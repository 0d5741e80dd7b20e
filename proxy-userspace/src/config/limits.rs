//! How many clients of UDP are remembered.

use std::num::NonZeroUsize;

use proxy_common::shares::RingSizes;

/// The table has room for so many.
pub const MAX_CLIENTS: u32 = RingSizes::MOST.service;

/// Of a service, and of each of its balancers.
pub fn ring_sizes(service: Option<NonZeroUsize>, balancer: Option<NonZeroUsize>) -> RingSizes {
    let or = |given: Option<NonZeroUsize>, default| {
        given.map_or(default, |given| {
            u32::try_from(given.get()).unwrap_or(u32::MAX)
        })
    };
    let service = or(service, MAX_CLIENTS).min(MAX_CLIENTS);
    RingSizes {
        service,
        balancer: or(balancer, RingSizes::OF_BALANCER).min(service),
    }
}
