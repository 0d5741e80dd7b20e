//! The lists of balancers that may connect, and of clients that may not: a trie per family, pinned, and
//! changed while the programs read it.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proxy_common::{Addr, Listed, MAX_LISTED, map, origin};

use super::pins;

/// Who put a prefix there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A prefix in a service's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub service: u32,
    pub prefix: IpNet,
    pub origin: Origin,
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

/// Removes an instance's lists; returns how many prefixes they had.
pub fn forget_lists(instance: &str) -> Result<usize> {
    let mut count = 0;
    for list in List::BOTH {
        if let Some(prefixes) = Prefixes::find(instance, list)? {
            count += prefixes.entries()?.len();
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

    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = self.v4.entries::<Ipv4Net>()?;
        entries.extend(self.v6.entries::<Ipv6Net>()?);
        entries.sort_by_key(|entry| (entry.service, entry.prefix));
        Ok(entries)
    }

    /// Replaces what the configuration put there; live prefixes stay. Adds before it removes, so
    /// that nobody's answer changes in between.
    pub fn configure(&mut self, service: u32, prefixes: &[IpNet]) -> Result<()> {
        let configured = self.put_configured(service, prefixes);
        // Some may be there, whatever has become of others.
        self.changes.tell()?;
        configured
    }

    fn put_configured(&mut self, service: u32, prefixes: &[IpNet]) -> Result<()> {
        let before = self.entries()?.into_iter();
        let before = before.filter(|it| it.service == service && it.origin == Origin::Config);
        let mut stale: HashSet<_> = before.map(|entry| entry.prefix).collect();
        for prefix in prefixes {
            if !stale.remove(prefix) {
                self.put(service, *prefix, Origin::Config)?;
            }
        }
        for prefix in stale {
            self.take(service, prefix)?;
        }
        Ok(())
    }

    /// Has a service have none.
    pub fn clear(&mut self, service: u32) -> Result<()> {
        for entry in self.entries()?.iter().filter(|it| it.service == service) {
            self.take(service, entry.prefix)?;
        }
        self.changes.tell()
    }

    pub fn insert(&mut self, service: u32, prefix: IpNet, origin: Origin) -> Result<()> {
        self.put(service, prefix, origin)?;
        self.changes.tell()
    }

    /// Whether the prefix was there.
    pub fn remove(&mut self, service: u32, prefix: IpNet) -> Result<bool> {
        let was_there = self.take(service, prefix)?;
        self.changes.tell()?;
        Ok(was_there)
    }

    fn put(&mut self, service: u32, prefix: IpNet, origin: Origin) -> Result<()> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(service, net, origin),
            IpNet::V6(net) => self.v6.insert(service, net, origin),
        }
        .with_context(|| format!("adding {prefix} (at most {MAX_LISTED} prefixes fit)"))
    }

    fn take(&mut self, service: u32, prefix: IpNet) -> Result<bool> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(service, net),
            IpNet::V6(net) => self.v6.remove(service, net),
        }
        .with_context(|| format!("removing {prefix}"))
    }
}

/// The longest prefix of `entries` that covers all of `prefix`, as the programs would find it.
pub fn covering(entries: &[Entry], service: u32, prefix: IpNet) -> Option<&Entry> {
    entries
        .iter()
        .filter(|entry| entry.service == service && entry.prefix.contains(&prefix))
        .max_by_key(|entry| entry.prefix.prefix_len())
}

/// A family's prefix in the form of the trie's key.
trait Prefix<const N: usize>: Copy {
    fn words(self) -> [u32; N];
    fn len(self) -> u8;
    fn from_words(words: [u32; N], len: u8) -> Result<IpNet>;
}

impl Prefix<1> for Ipv4Net {
    fn words(self) -> [u32; 1] {
        [u32::from(self.network()).to_be()]
    }

    fn len(self) -> u8 {
        self.prefix_len()
    }

    fn from_words([word]: [u32; 1], len: u8) -> Result<IpNet> {
        let address = std::net::Ipv4Addr::from(u32::from_be(word));
        Ok(IpNet::new(address.into(), len)?)
    }
}

impl Prefix<4> for Ipv6Net {
    fn words(self) -> [u32; 4] {
        Addr::from(IpAddr::V6(self.network())).words()
    }

    fn len(self) -> u8 {
        self.prefix_len()
    }

    fn from_words(words: [u32; 4], len: u8) -> Result<IpNet> {
        let bits = words
            .iter()
            .fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)));
        let address = std::net::Ipv6Addr::from(bits);
        Ok(IpNet::new(address.into(), len)?)
    }
}

pub(super) fn open_pinned<M: TryFrom<Map, Error = MapError>>(
    pin: &Path,
    of_type: fn(MapData) -> Map,
) -> Result<M> {
    let data = MapData::from_pin(pin)
        .with_context(|| format!("opening {} (needs root)", pin.display()))?;
    let map = of_type(data).try_into();
    map.with_context(|| format!("{} is of another version: remove it", pin.display()))
}

/// BPF_F_NO_PREALLOC of linux/bpf.h.
pub(super) const NO_PREALLOC: u32 = 1;

pub(super) fn pinning(pin: &Path) -> String {
    format!("pinning {}", pin.display())
}

/// Has the programs ask the lists again whom they have asked for, be it that they did a moment ago.
struct Changes {
    pin: PathBuf,
    /// Locked while it is counted up.
    directory: File,
    /// None: nobody has counted yet.
    count: Option<Array<MapData, u32>>,
}

impl Changes {
    fn open(directory: &Path) -> Result<Self> {
        let pin = directory.join(map::LIST_CHANGES);
        let open = |pin: &PathBuf| open_pinned(pin, Map::Array);
        Ok(Self {
            count: pin.exists().then(|| open(&pin)).transpose()?,
            directory: File::open(directory)
                .with_context(|| format!("opening {}", directory.display()))?,
            pin,
        })
    }

    fn tell(&mut self) -> Result<()> {
        self.directory.lock().context("locking the lists")?;
        let told = self.count_up();
        self.directory.unlock().context("unlocking the lists")?;
        told.context("telling the programs of a change of a list")
    }

    fn count_up(&mut self) -> Result<()> {
        let Self { pin, count, .. } = self;
        if count.is_none() && !pin.exists() {
            let changes: Array<MapData, u32> =
                Array::create(1, 0).context("making a list (needs CAP_BPF)")?;
            changes.pin(&pin).with_context(|| pinning(pin))?;
        }
        let count = match count {
            Some(count) => count,
            None => count.insert(open_pinned(pin, Map::Array)?),
        };
        let before = count.get(&0, 0)?;
        Ok(count.set(0, before.wrapping_add(1), 0)?)
    }
}

/// One family's trie.
struct Trie<const N: usize>(LpmTrie<MapData, Listed<N>, u32>);

impl<const N: usize> Trie<N> {
    fn open(pin: &Path) -> Result<Self> {
        if !pin.exists() {
            Self::create(pin)?;
        }
        open_pinned(pin, Map::LpmTrie).map(Self)
    }

    fn create(pin: &Path) -> Result<()> {
        // The kernel wants this of every trie.
        let trie: LpmTrie<MapData, Listed<N>, u32> =
            LpmTrie::create(MAX_LISTED, NO_PREALLOC).context("making a list (needs CAP_BPF)")?;
        trie.pin(pin).with_context(|| pinning(pin))
    }

    fn entries<P: Prefix<N>>(&self) -> Result<Vec<Entry>> {
        self.0.iter().map(|found| entry::<N, P>(found?)).collect()
    }

    fn has(&self, service: u32, prefix: impl Prefix<N>) -> Result<bool> {
        match self.0.get(&key(service, prefix), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn insert(&mut self, service: u32, prefix: impl Prefix<N>, origin: Origin) -> Result<()> {
        Ok(self.0.insert(&key(service, prefix), origin.value(), 0)?)
    }

    fn remove(&mut self, service: u32, prefix: impl Prefix<N>) -> Result<bool> {
        match self.0.remove(&key(service, prefix)) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if is_missing(&error.io_error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn key<const N: usize>(service: u32, prefix: impl Prefix<N>) -> Key<Listed<N>> {
    let bits = Listed::<N>::prefix_len(prefix.len().into());
    Key::new(bits, Listed::new(service, prefix.words()))
}

fn entry<const N: usize, P: Prefix<N>>((key, value): (Key<Listed<N>>, u32)) -> Result<Entry> {
    let allowed = key.data();
    let bits = key.prefix_len().checked_sub(Listed::<N>::SERVICE_BITS);
    let Some(len) = bits.and_then(|bits| u8::try_from(bits).ok()) else {
        bail!("a list entry for more than one service: another tool wrote it");
    };
    Ok(Entry {
        service: allowed.service(),
        prefix: P::from_words(allowed.addr(), len)?,
        origin: Origin::from_value(value),
    })
}
