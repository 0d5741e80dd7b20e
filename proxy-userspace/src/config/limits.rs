//! How many clients of UDP are remembered.

use std::num::NonZeroUsize;

use proxy_common::shares::Limits;

/// The table has room for so many.
pub const MAX_CLIENTS: u32 = Limits::MOST.service;

/// Of a service, and of each of its balancers.
pub fn client_limits(service: Option<NonZeroUsize>, balancer: Option<NonZeroUsize>) -> Limits {
    let or = |given: Option<NonZeroUsize>, default| {
        given.map_or(default, |given| {
            u32::try_from(given.get()).unwrap_or(u32::MAX)
        })
    };
    let service = or(service, MAX_CLIENTS).min(MAX_CLIENTS);
    Limits {
        service,
        balancer: or(balancer, Limits::OF_BALANCER).min(service),
    }
}
