//! Applications of UDP: those that are served, and those that have been.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::{
    kernel::{AimedAt, DatagramFlow},
    netns::SteerNets,
};

#[derive(Default)]
pub struct Applications {
    served: Vec<AimedAt>,
    /// Of no service any longer. They are answered as before while something is open.
    former: Vec<AimedAt>,
}

impl Applications {
    /// Of a daemon before this one, of which only these flows are known.
    pub fn inherited(flows: &[DatagramFlow], steer: &SteerNets) -> Self {
        let aims: BTreeSet<_> = flows.iter().map(|flow| flow.ends.aim).collect();
        let former = aims.into_iter().map(|aim| inherited(aim, steer));
        Self {
            served: Vec::new(),
            former: former.collect(),
        }
    }

    /// These are served from here on.
    pub fn serve(&mut self, served: Vec<AimedAt>) {
        self.former.append(&mut self.served);
        // By where datagrams go: of an inherited one, the target is as good as guessed.
        self.former
            .retain(|app| !served.iter().any(|it| it.aim == app.aim));
        self.served = served;
    }

    pub fn all(&self) -> Vec<AimedAt> {
        let served = self.served.iter().map(|app| AimedAt {
            // One at a wildcard may answer clients of a former one, of whom nothing is known here.
            is_exclusive: app.is_exclusive || self.former.iter().any(|it| is_beside(it, app)),
            ..*app
        });
        self.former.iter().copied().chain(served).collect()
    }

    pub fn has_former(&self) -> bool {
        !self.former.is_empty()
    }

    /// Forgets former ones that nothing is open at, by where datagrams for them go; whether it was any.
    pub fn forget_former(&mut self, open: &HashSet<SocketAddr>) -> bool {
        let before = self.former.len();
        self.former.retain(|app| open.contains(&app.aim));
        self.former.len() < before
    }
}

fn is_beside(one: &AimedAt, other: &AimedAt) -> bool {
    one.target.is_ipv4() == other.target.is_ipv4() && one.target.port() == other.target.port()
}

/// Targets at loopback addresses have steer addresses, and all others their own.
fn inherited(aim: SocketAddr, steer: &SteerNets) -> AimedAt {
    let loopback = match aim.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let is_steered = steer.contains(&aim.ip());
    let target = match is_steered {
        true => SocketAddr::new(loopback, aim.port()),
        false => aim,
    };
    AimedAt {
        target,
        aim,
        is_exclusive: is_steered,
    }
}
