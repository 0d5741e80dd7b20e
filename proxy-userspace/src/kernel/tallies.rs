//! How many connections each balancer and client has: the program `tally` counts the daemon's, beside those that the
//! programs count themselves.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{HashMap as MapOf, MapData},
};
use proxy_common::{
    claim::{Answer, Ask, Claim},
    limits::Limits,
    map, program,
};

use super::load::{descriptor, take};
use crate::sys;

pub struct Tallies {
    program: OwnedFd,
    limits: Mutex<MapOf<MapData, u32, Limits>>,
}

impl Tallies {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let program = descriptor(ebpf, program::TALLY)?.try_clone_to_owned()?;
        Ok(Self {
            program,
            limits: Mutex::new(take(ebpf, map::LIMITS)?.try_into()?),
        })
    }

    /// These hold from here on, by service.
    pub fn limit(&self, wanted: &BTreeMap<u32, Limits>) -> Result<()> {
        let mut wanted = wanted.clone();
        if let Some(any) = wanted.values().next().copied() {
            wanted.insert(Limits::ANY, any);
        }
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        for (service, limit) in &wanted {
            limits
                .insert(service, limit, 0)
                .context("too many services have limits")?;
        }
        let known: Vec<u32> = limits.keys().collect::<Result<_, _>>()?;
        for service in known.iter().filter(|known| !wanted.contains_key(known)) {
            limits.remove(service).context("forgetting limits")?;
        }
        Ok(())
    }

    /// What becomes of a new connection, and for whom it is counted, in [`Party`]'s bits.
    ///
    /// [`Party`]: proxy_common::limits::Party
    pub fn claim(&self, service: u32, parties: [IpAddr; 2]) -> Result<(Answer, u32)> {
        let (answer, claim) = self.ask(Ask::Claim, of(service, parties, 0))?;
        Ok((answer, claim.counted))
    }

    /// Counts one that is there, which is counted for some or for nobody; for whom it is then.
    pub fn count(&self, service: u32, parties: [IpAddr; 2], counted: u32) -> Result<u32> {
        let (_, claim) = self.ask(Ask::Count, of(service, parties, counted))?;
        Ok(claim.counted)
    }

    pub fn release(&self, service: u32, parties: [IpAddr; 2], counted: u32) -> Result<()> {
        self.ask(Ask::Release, of(service, parties, counted))?;
        Ok(())
    }

    /// Forgets those who have nothing; how many are left.
    pub fn tidy(&self) -> Result<u32> {
        let (_, claim) = self.ask(Ask::Tidy, Claim::default())?;
        Ok(claim.left)
    }

    /// Others have the lock for microseconds, but may be kept from running meanwhile.
    fn ask(&self, ask: Ask, claim: Claim) -> Result<(Answer, Claim)> {
        loop {
            let mut claim = Claim {
                ask: ask as u32,
                answer: Answer::Busy as u32,
                ..claim
            };
            // SAFETY: made of integers that fill it, as the assertion of its layout says.
            unsafe { sys::bpf::run_on(self.program.as_fd(), &mut claim) }
                .context("running program tally")?;
            match Answer::from_number(claim.answer) {
                Some(answer) if answer != Answer::Busy => return Ok((answer, claim)),
                _ => thread::yield_now(),
            }
        }
    }
}

/// The balancer first.
fn of(service: u32, [balancer, client]: [IpAddr; 2], counted: u32) -> Claim {
    Claim {
        service,
        balancer: balancer.into(),
        client: client.into(),
        counted,
        ..Claim::default()
    }
}
