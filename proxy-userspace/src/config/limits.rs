//! How many clients of UDP are remembered.

use std::num::NonZeroUsize;

use proxy_common::shares::Limits;

/// The table has room for so many.
pub const MAX_CLIENTS: u32 = Limits::MOST.service;

/// Of a service, and of each of its balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    pub service: u32,
    pub balancer: u32,
}

impl ClientLimits {
    pub fn new(service: Option<NonZeroUsize>, balancer: Option<NonZeroUsize>) -> Self {
        let or = |given: Option<NonZeroUsize>, default| {
            given.map_or(default, |given| {
                u32::try_from(given.get()).unwrap_or(u32::MAX)
            })
        };
        let service = or(service, MAX_CLIENTS).min(MAX_CLIENTS);
        Self {
            service,
            balancer: or(balancer, Limits::OF_BALANCER).min(service),
        }
    }
}
