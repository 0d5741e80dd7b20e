//! By which devices balancers' datagrams may come: those that a route to the balancer goes by. By any other
//! one, anybody on that link could speak in the balancer's name.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use proxy_common::{
    LO,
    datagram::{MAX_REVERSE_PATHS, ReversePath},
};

use super::Flows;

/// For so long a route is believed to be as it was, here as by the programs.
const LIFE: Duration = Duration::from_secs(ReversePath::LIFE as u64);
/// What is known at a time is bounded, as addresses may be made up.
const MOST: usize = MAX_REVERSE_PATHS as usize;
/// So often the kernel is asked in a second for what comes by one device; more of that is dropped.
const MOST_ASKED: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct ReversePaths {
    known: RefCell<HashMap<(IpAddr, u32), (Instant, bool)>>,
    /// By device, since when it has been how often.
    asked: RefCell<HashMap<u32, (Instant, u32)>>,
}

impl ReversePaths {
    /// Whether a route to the balancer goes by the device of this index.
    pub async fn leads(&self, flows: &dyn Flows, balancer: IpAddr, device: u32) -> bool {
        // What is sent there comes from this host itself.
        if device == LO {
            return true;
        }
        let path = (balancer, device);
        let known = self.known.borrow().get(&path).copied();
        if let Some((since, leads)) = known
            && since.elapsed() < LIFE
        {
            return leads;
        }
        if !self.may_ask(device) {
            return false;
        }
        let leads = flows.leads(balancer, device).await;
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(path, (Instant::now(), leads));
        leads
    }

    fn may_ask(&self, device: u32) -> bool {
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= MOST {
            asked.clear();
        }
        let (since, count) = asked.entry(device).or_insert_with(|| (Instant::now(), 0));
        if since.elapsed() >= SECOND {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count <= MOST_ASKED
    }
}
