//! The ids that an instance's services have in its lists, by name: pinned beside those, so that a service keeps
//! its lists wherever it stands in the configuration.

use std::{collections::BTreeMap, fs::File, path::Path};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use proxy_common::map;

use super::pins::{self, NO_PREALLOC, open_pinned, pinning};

/// Of a service that is set up by flags.
const DEFAULT: (&str, u32) = ("default", 0);

const MOST: u32 = 1 << 16;
/// Of a value, beside the id.
const DRAINED: u32 = 1 << 31;
/// Longest name, in bytes.
const LEN: usize = 64;
type Name = [u8; LEN];

/// Each name's id, the same as ever for those that have one; and which of them are new.
pub fn assign<'a>(
    instance: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let directory = pins::create_directory(instance)?;
    let lock = File::open(&directory).with_context(|| directory.display().to_string())?;
    lock.lock().context("locking the services' ids")?;
    let mut map = open(&directory.join(map::SERVICES))?;
    let mut known = all(&map)?;
    let mut new = Vec::new();
    let mut id_of = |name: &str| {
        if let Some(id) = known.get(name) {
            return Ok(*id);
        }
        let is_free = |id: &u32| !known.values().any(|taken| taken == id);
        let free = if name == DEFAULT.0 {
            DEFAULT.1
        } else {
            (DEFAULT.1 + 1..MOST)
                .find(is_free)
                .context("too many services")?
        };
        map.insert(key(name)?, free, 0)
            .with_context(|| format!("noting the id of service {name}"))?;
        known.insert(name.to_owned(), free);
        // The other one's lists may be there since before a name was noted.
        if free != DEFAULT.1 {
            new.push(free);
        }
        Ok(free)
    };
    let ids = names.map(&mut id_of).collect::<Result<_>>()?;
    Ok((ids, new))
}

/// The services that an instance has, or has had, with their ids.
pub fn assigned(instance: &str) -> Result<BTreeMap<String, u32>> {
    let pin = pins::directory(instance).join(map::SERVICES);
    let mut known = match pin.exists() {
        true => all(&open_pinned(&pin, Map::HashMap)?)?,
        false => BTreeMap::new(),
    };
    if known.is_empty() {
        known.insert(DEFAULT.0.into(), DEFAULT.1);
    }
    Ok(known)
}

/// Forgets those of these ids.
pub fn forget(instance: &str, ids: &[u32]) -> Result<()> {
    let mut map = open(&pins::directory(instance).join(map::SERVICES))?;
    let mut gone = all(&map)?;
    gone.retain(|_, id| ids.contains(id));
    gone.keys().try_for_each(|name| {
        map.remove(&key(name)?)
            .with_context(|| format!("forgetting service {name}"))
    })
}

/// Of those that take nobody new the ids, also over the end of their daemon.
pub fn drained(instance: &str) -> Result<Vec<u32>> {
    let pin = pins::directory(instance).join(map::SERVICES);
    if !pin.exists() {
        return Ok(Vec::new());
    }
    let map = open(&pin)?;
    let each = entries(&map).filter_map(|entry| match entry {
        Ok((_, value)) => (value & DRAINED != 0).then_some(Ok(value & !DRAINED)),
        Err(error) => Some(Err(error)),
    });
    each.collect()
}

pub fn set_drained(instance: &str, ids: &[u32], drained: bool) -> Result<()> {
    let mut map = open(&pins::directory(instance).join(map::SERVICES))?;
    let mut known = all(&map)?;
    known.retain(|_, id| ids.contains(id));
    let flag = if drained { DRAINED } else { 0 };
    known.into_iter().try_for_each(|(name, id)| {
        map.insert(key(&name)?, id | flag, 0)
            .with_context(|| format!("noting whether service {name} is drained"))
    })
}

fn open(pin: &Path) -> Result<HashMap<MapData, Name, u32>> {
    if !pin.exists() {
        let map: HashMap<MapData, Name, u32> = HashMap::create(MOST, NO_PREALLOC)
            .context("making the services' ids (needs CAP_BPF)")?;
        map.pin(pin).with_context(|| pinning(pin))?;
    }
    open_pinned(pin, Map::HashMap)
}

fn all(map: &HashMap<MapData, Name, u32>) -> Result<BTreeMap<String, u32>> {
    let each = entries(map).map(|entry| entry.map(|(name, value)| (name, value & !DRAINED)));
    each.collect()
}

fn entries(map: &HashMap<MapData, Name, u32>) -> impl Iterator<Item = Result<(String, u32)>> {
    map.iter().map(|found| {
        let (name, value) = found.context("reading the services' ids")?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok((String::from_utf8_lossy(name).into_owned(), value))
    })
}

fn key(name: &str) -> Result<Name> {
    ensure!(
        name.len() <= LEN,
        "service {name} has a name of over {LEN} bytes"
    );
    let mut key = [0; LEN];
    key[..name.len()].copy_from_slice(name.as_bytes());
    Ok(key)
}
