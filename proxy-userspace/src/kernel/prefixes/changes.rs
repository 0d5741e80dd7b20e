//! How the programs hear of a change of a list.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use proxy_common::map;

use super::super::pins::{open_pinned, pinning};

/// Has the programs ask the lists again whom they have asked for, be it that they did a moment ago.
pub struct Changes {
    pin: PathBuf,
    /// Locked while it is counted up.
    directory: File,
    /// None: nobody has counted yet.
    count: Option<Array<MapData, u32>>,
}

impl Changes {
    pub fn open(directory: &Path) -> Result<Self> {
        let pin = directory.join(map::LIST_CHANGES);
        let open = |pin: &PathBuf| open_pinned(pin, Map::Array);
        Ok(Self {
            count: pin.exists().then(|| open(&pin)).transpose()?,
            directory: File::open(directory)
                .with_context(|| format!("opening {}", directory.display()))?,
            pin,
        })
    }

    /// How many changes there have been, of any list.
    pub fn count(&mut self) -> Result<u32> {
        if self.count.is_none() && !self.pin.exists() {
            return Ok(0);
        }
        Ok(self.counter()?.get(&0, 0)?)
    }

    pub fn tell(&mut self) -> Result<()> {
        self.directory.lock().context("locking the lists")?;
        let told = self.count_up();
        self.directory.unlock().context("unlocking the lists")?;
        told.context("telling the programs of a change of a list")
    }

    fn count_up(&mut self) -> Result<()> {
        if self.count.is_none() && !self.pin.exists() {
            let changes: Array<MapData, u32> =
                Array::create(1, 0).context("making a list (needs CAP_BPF)")?;
            changes.pin(&self.pin).with_context(|| pinning(&self.pin))?;
        }
        let count = self.counter()?;
        let before = count.get(&0, 0)?;
        Ok(count.set(0, before.wrapping_add(1), 0)?)
    }

    fn counter(&mut self) -> Result<&mut Array<MapData, u32>> {
        match &mut self.count {
            Some(count) => Ok(count),
            none => Ok(none.insert(open_pinned(&self.pin, Map::Array)?)),
        }
    }
}
