//! Whether a rule is about packets.

use std::net::IpAddr;

use super::{Devices, Effect, Match, Rule, Values};
use crate::{config::Transport, facts::Family};

/// Those that begin connections, to one port.
#[derive(Clone, Copy, Debug)]
pub struct Packets<'a> {
    pub family: Family,
    pub transport: Transport,
    pub port: u16,
    /// None for any of the host's.
    pub destination: Option<IpAddr>,
    /// What they come by; none for any but `lo`.
    pub device: Option<&'a str>,
}

/// Whether a condition holds for all such packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    Never,
    Maybe,
    Always,
}

impl From<bool> for Fit {
    fn from(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }
}

impl Rule {
    pub(super) fn may_fit(&self, packets: Packets<'_>) -> bool {
        self.fit(packets) != Fit::Never
    }

    pub(super) fn fit(&self, packets: Packets<'_>) -> Fit {
        let fits = self.matches.iter().map(|it| self.fit_of(it, packets));
        fits.min().unwrap_or(Fit::Always)
    }

    fn fit_of(&self, condition: &Match, packets: Packets<'_>) -> Fit {
        // Redirected to the service's port means that it comes there by another.
        let redirected = self.effect == Effect::Redirects(Some(packets.port));
        match condition {
            Match::Port(ports) => (redirected || ports.include(&packets.port)).into(),
            Match::Destination(addresses) => match packets.destination {
                Some(address) => addresses.include(&address).into(),
                None => addresses.fit(packets.family),
            },
            Match::Source(addresses) => addresses.fit(packets.family),
            Match::Family(family) => (*family == packets.family).into(),
            Match::Transport(transport) => (*transport == packets.transport).into(),
            Match::Device(devices) => devices.fit(packets.device),
            Match::Others => Fit::Never,
            Match::SomeSources | Match::Unknown => Fit::Maybe,
        }
    }
}

impl Values<IpAddr> {
    /// Addresses of IPv6 have nothing to say to a packet of IPv4, negated or not. A set that is empty now
    /// may have some of either tomorrow.
    fn fit(&self, family: Family) -> Fit {
        let mut ranges = self.ranges.iter();
        match self.ranges.is_empty() || ranges.any(|range| family.has(range.start())) {
            true => Fit::Maybe,
            false => Fit::Never,
        }
    }
}

impl Devices {
    fn fit(&self, device: Option<&str>) -> Fit {
        const LO: &str = "lo";
        match device {
            Some(device) => (self.include(device) != self.negated).into(),
            None if !self.negated && self.names.iter().all(|name| name == LO) => Fit::Never,
            None => Fit::Maybe,
        }
    }

    fn include(&self, device: &str) -> bool {
        self.names.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => device.starts_with(start),
            None => name == device,
        })
    }
}
