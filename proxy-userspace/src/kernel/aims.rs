//! Where datagrams for applications go.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap as MapOf, Map, MapData};
use proxy_common::{Endpoint, Life, datagram::Aim};

use super::claims::absent_is_fine;

/// Where datagrams for applications go, which answer from there.
pub struct Aims {
    map: MapOf<MapData, Endpoint, Aim>,
    /// Each application's number, by its target and aim.
    apps: BTreeMap<(SocketAddr, SocketAddr), u32>,
    life: Array<MapData, u64>,
}

/// An application that datagrams go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AimedAt {
    pub target: SocketAddr,
    /// It answers from there, if it is on this host with a socket at that address or at a wildcard one.
    pub aim: SocketAddr,
    /// Whether nobody but balancers' clients is answered by it, as far as the port's bit says so too.
    pub is_exclusive: bool,
}

impl Aims {
    pub fn new(map: Map, life: Array<MapData, u64>) -> Result<Self> {
        Ok(Self {
            map: map.try_into()?,
            apps: BTreeMap::new(),
            life,
        })
    }

    /// Whether there are any, and beyond this host, perhaps.
    fn say_where(&mut self, applications: &[AimedAt]) -> Result<()> {
        const SERVED: u64 = 1;
        const MAYBE_BEYOND: u64 = 2;
        let is_straight = |app: &AimedAt| app.target == app.aim;
        let each = applications.iter().map(|app| match is_straight(app) {
            true => MAYBE_BEYOND,
            false => SERVED,
        });
        let known = self.life.get(&(Life::Datagrams as u32), 0)?;
        let now = each.fold(known, u64::max);
        Ok(self.life.set(Life::Datagrams as u32, now, 0)?)
    }

    /// These are all that there are.
    pub fn set(&mut self, applications: &[AimedAt]) -> Result<()> {
        self.say_where(applications)?;
        let is_there = |(target, aim): &(SocketAddr, SocketAddr)| {
            applications
                .iter()
                .any(|app| app.target == *target && app.aim == *aim)
        };
        self.apps.retain(|known, _| is_there(known));
        let mut wanted = HashMap::new();
        for app in applications {
            let number = self.number(app);
            let flags = if app.is_exclusive { Aim::EXCLUSIVE } else { 0 };
            let known = Aim::new(app.aim.into(), flags, number);
            for at in places(app) {
                wanted.insert(Endpoint::from(at), known);
            }
        }
        for (at, known) in &wanted {
            let inserted = self.map.insert(at, known, 0);
            inserted.with_context(|| format!("too many targets at {}", SocketAddr::from(*at)))?;
        }
        let there: Vec<_> = self.map.keys().filter_map(Result::ok).collect();
        let mut gone = there.iter().filter(|at| !wanted.contains_key(at));
        gone.try_for_each(|at| absent_is_fine(self.map.remove(at)))
            .context("forgetting a target")
    }

    fn number(&mut self, app: &AimedAt) -> u32 {
        let key = (app.target, app.aim);
        if let Some(number) = self.apps.get(&key) {
            return *number;
        }
        let is_taken = |number: &u32| self.apps.values().any(|taken| taken == number);
        // There are fewer applications than numbers.
        let number = (0..u32::MAX)
            .find(|number| !is_taken(number))
            .unwrap_or_default();
        self.apps.insert(key, number);
        number
    }
}

/// Where an application is looked for.
fn places(app: &AimedAt) -> [SocketAddr; 4] {
    let AimedAt { target, aim, .. } = *app;
    let any = match target.ip() {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let port = target.port();
    [
        target,
        aim,
        SocketAddr::new(any, port),
        SocketAddr::new(target.ip(), 0),
    ]
}
