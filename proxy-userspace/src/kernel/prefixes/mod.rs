//! The lists of balancers that may connect, and of clients that may not: a trie per family, pinned, and
//! changed while the programs read it.

mod changes;
mod trie;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, iter,
    net::IpAddr,
    path::PathBuf,
};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proxy_common::{MAX_LISTED, map, origin};
use serde::Serialize;

use self::{changes::Changes, trie::Trie};
use super::pins;

/// Who put a prefix there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag or its file: each start and reload replaces these.
    Config,
    /// `truepeer allow` or `truepeer deny`, or another tool: stays until it is removed.
    Live,
}

impl Origin {
    /// Whatever another tool wrote was put there live.
    fn from_value(value: u32) -> Self {
        match value {
            origin::CONFIG => Self::Config,
            _ => Self::Live,
        }
    }

    fn value(self) -> u32 {
        match self {
            Self::Config => origin::CONFIG,
            Self::Live => origin::LIVE,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Config => "config",
            Self::Live => "live",
        })
    }
}

/// Which list, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Balancers that may connect.
    Allow,
    /// Clients that may not.
    Deny,
}

impl List {
    pub const BOTH: [Self; 2] = [Self::Allow, Self::Deny];

    const fn pins(self) -> [&'static str; 2] {
        match self {
            Self::Allow => [map::ALLOW4, map::ALLOW6],
            Self::Deny => [map::DENY4, map::DENY6],
        }
    }
}

/// What a list has for a service.
pub type Entries = BTreeMap<IpNet, Origin>;

/// The longest prefix of `entries` that covers all of `prefix`, as the programs would find it.
pub fn covering(entries: &Entries, prefix: IpNet) -> Option<(IpNet, Origin)> {
    let mut wider = iter::successors(Some(prefix), IpNet::supernet);
    wider.find_map(|net| Some((net, *entries.get(&net)?)))
}

/// How many prefixes a list had more than it was to have, and fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    pub added: usize,
    pub removed: usize,
    /// Of those removed, by configuration.
    pub configured: usize,
    pub kept: usize,
}

/// One list, of all services.
pub struct Prefixes {
    v4: Trie<1>,
    v6: Trie<4>,
    changes: Changes,
}

/// The instances that have lists, be it that they don't run.
pub fn listing_instances() -> Result<BTreeSet<String>> {
    pins::instances()
}

/// What tells the instance's lists from others under the same names: each mount of bpffs has its own.
pub fn list_ids(instance: &str) -> Result<Vec<u32>> {
    let directory = pins::directory(instance);
    let pins = List::BOTH.into_iter().flat_map(List::pins);
    let pins = pins.map(|pin| directory.join(pin));
    let id = |pin: PathBuf| {
        let info = MapInfo::from_pin(&pin);
        Ok(info
            .with_context(|| format!("opening {} (needs root)", pin.display()))?
            .id())
    };
    pins.filter(|pin| pin.exists()).map(id).collect()
}

/// Removes an instance's lists; returns how many prefixes they had.
pub fn forget_lists(instance: &str) -> Result<usize> {
    let mut count = 0;
    for list in List::BOTH {
        if let Some(prefixes) = Prefixes::find(instance, list)? {
            count += prefixes.count()?;
        }
    }
    pins::remove(instance)?;
    Ok(count)
}

impl Prefixes {
    /// The instance's pinned list, made if it isn't there yet.
    pub fn open(instance: &str, list: List) -> Result<Self> {
        let directory = pins::create_directory(instance)?;
        let [v4, v6] = list.pins().map(|pin| directory.join(pin));
        Ok(Self {
            v4: Trie::open(&v4)?,
            v6: Trie::open(&v6)?,
            changes: Changes::open(&directory)?,
        })
    }

    /// The same, if there is one.
    pub fn find(instance: &str, list: List) -> Result<Option<Self>> {
        let directory = pins::directory(instance);
        if list.pins().iter().all(|pin| directory.join(pin).exists()) {
            return Self::open(instance, list).map(Some);
        }
        Ok(None)
    }

    /// Whether a prefix covers the address.
    pub fn has(&self, service: u32, address: IpAddr) -> Result<bool> {
        match address {
            IpAddr::V4(v4) => self.v4.has(service, Ipv4Net::from(v4)),
            IpAddr::V6(v6) => self.v6.has(service, Ipv6Net::from(v6)),
        }
    }

    /// Has the programs ask again whom they have asked for, as something else has changed that goes with the answer.
    pub fn ask_again(&mut self) -> Result<()> {
        self.changes.tell()
    }

    /// How many changes there have been, of any list of the instance.
    pub fn changes(&mut self) -> Result<u32> {
        let count = self.changes.count();
        count.context("reading how many changes of lists there were")
    }

    /// How many there are, of all services.
    pub fn count(&self) -> Result<usize> {
        self.each()
            .try_fold(0, |count, entry| entry.map(|_| count + 1))
    }

    pub fn of(&self, service: u32) -> Result<Entries> {
        let mine = self.each().filter_map(|entry| match entry {
            Ok((of, ..)) if of != service => None,
            entry => Some(entry.map(|(_, prefix, origin)| (prefix, origin))),
        });
        mine.collect()
    }

    pub fn of_all(&self) -> Result<HashMap<u32, Entries>> {
        let mut all = HashMap::<_, Entries>::new();
        for entry in self.each() {
            let (service, prefix, origin) = entry?;
            all.entry(service).or_default().insert(prefix, origin);
        }
        Ok(all)
    }

    fn each(&self) -> impl Iterator<Item = Result<(u32, IpNet, Origin)>> {
        let v4 = self.v4.each::<Ipv4Net>();
        v4.chain(self.v6.each::<Ipv6Net>())
    }

    /// Replaces what the configuration put there for each service; live prefixes stay. Adds before it removes,
    /// so that nobody's answer changes in between.
    pub fn configure<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = (u32, &'a [IpNet])>,
    ) -> Result<()> {
        let mut all = self.of_all()?;
        let configured = wanted.into_iter().try_for_each(|(service, prefixes)| {
            let mut before = all.remove(&service).unwrap_or_default();
            before.retain(|_, origin| *origin == Origin::Config);
            self.put_only(service, prefixes, Origin::Config, before)
                .map(drop)
        });
        // Some may be there, whatever has become of others.
        self.changes.tell()?;
        configured
    }

    /// Has a service have these alone, whoever put the others there. Adds before it removes.
    pub fn replace(&mut self, service: u32, prefixes: &[IpNet]) -> Result<Replaced> {
        let before = self.of(service)?;
        let replaced = self.put_only(service, prefixes, Origin::Live, before);
        self.changes.tell()?;
        replaced
    }

    fn put_only(
        &mut self,
        service: u32,
        prefixes: &[IpNet],
        origin: Origin,
        before: Entries,
    ) -> Result<Replaced> {
        let mut stale = before;
        let mut replaced = Replaced::default();
        for prefix in prefixes {
            if stale.remove(prefix).is_some() {
                replaced.kept += 1;
            } else {
                self.put(service, *prefix, origin)?;
                replaced.added += 1;
            }
        }
        for (prefix, origin) in stale {
            replaced.removed += usize::from(self.take(service, prefix)?);
            replaced.configured += usize::from(origin == Origin::Config);
        }
        Ok(replaced)
    }

    /// Has these services have none.
    pub fn clear(&mut self, services: &[u32]) -> Result<()> {
        if services.is_empty() {
            return Ok(());
        }
        let all = self.of_all()?;
        for service in services {
            for prefix in all.get(service).into_iter().flat_map(Entries::keys) {
                self.take(*service, *prefix)?;
            }
        }
        self.changes.tell()
    }

    pub fn insert(&mut self, service: u32, prefixes: &[IpNet], origin: Origin) -> Result<()> {
        let mut each = prefixes.iter();
        let inserted = each.try_for_each(|prefix| self.put(service, *prefix, origin));
        self.changes.tell()?;
        inserted
    }

    pub fn remove(&mut self, service: u32, prefixes: &[IpNet]) -> Result<()> {
        let mut each = prefixes.iter();
        let removed = each.try_for_each(|prefix| self.take(service, *prefix).map(drop));
        self.changes.tell()?;
        removed
    }

    fn put(&mut self, service: u32, prefix: IpNet, origin: Origin) -> Result<()> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(service, net, origin),
            IpNet::V6(net) => self.v6.insert(service, net, origin),
        }
        .with_context(|| format!("adding {prefix} (at most {MAX_LISTED} prefixes fit)"))
    }

    /// Whether the prefix was there.
    fn take(&mut self, service: u32, prefix: IpNet) -> Result<bool> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(service, net),
            IpNet::V6(net) => self.v6.remove(service, net),
        }
        .with_context(|| format!("removing {prefix}"))
    }
}
