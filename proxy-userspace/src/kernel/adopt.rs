//! Maps that another daemon made, for the programs of this one.

use std::{collections::HashMap, os::fd::OwnedFd, path::PathBuf};

use anyhow::{Context, Result, bail};
use aya::{EbpfLoader, maps::MapData};
use serde::{Deserialize, Serialize};

use super::{load::OBJECT, pins::Unmounted};

/// What programs have to agree about with a map: one that is built for longer values loads without
/// complaint over a map of shorter ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapShape {
    /// Of enum bpf_map_type.
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// What the programs expect of each of their maps.
fn shapes() -> Result<HashMap<String, MapShape>> {
    let object = aya_obj::Object::parse(OBJECT).context("reading the eBPF object")?;
    let shape = |map: &aya_obj::Map| MapShape {
        map_type: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        flags: map.map_flags(),
    };
    let maps = object.maps.iter();
    Ok(maps.map(|(name, map)| (name.clone(), shape(map))).collect())
}

/// A loader takes in maps by pins only: these nobody else sees, and they go when this is dropped. The
/// loader's maps stay.
pub struct Adopted {
    #[expect(dead_code, reason = "holds the pins")]
    pins: Unmounted,
    paths: Vec<(String, PathBuf)>,
}

impl Adopted {
    /// Refuses what isn't as the programs expect it: they would read one field as another.
    pub fn new(maps: impl IntoIterator<Item = (String, MapShape, OwnedFd)>) -> Result<Self> {
        let expected = shapes()?;
        let pins = Unmounted::new()?;
        let mut paths = Vec::new();
        for (name, shape, fd) in maps {
            match expected.get(&name) {
                Some(wanted) if *wanted == shape => {}
                Some(wanted) => bail!(
                    "map {name} of the running version is {shape:?}, this version's is {wanted:?}"
                ),
                None => bail!("this version has no map {name}"),
            }
            let path = pins.path().join(&name);
            let map = MapData::from_fd(fd).with_context(|| format!("map {name}"))?;
            map.pin(&path).with_context(|| format!("map {name}"))?;
            paths.push((name, path));
        }
        Ok(Self { pins, paths })
    }

    /// The programs that it loads use these.
    pub fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (name, path) in &self.paths {
            loader.map_pin_path(name, path);
        }
    }
}
