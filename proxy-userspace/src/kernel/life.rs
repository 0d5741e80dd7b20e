//! The end of an instance, said to the programs through a map that outlives the daemon.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use proxy_common::Life;

/// From here on the programs refuse what is new: whoever holds the map `life` ends what is open.
pub fn say_closing(map: impl AsFd) -> Result<()> {
    let map = map.as_fd().try_clone_to_owned()?;
    let map = Map::from_map_data(MapData::from_fd(map)?)?;
    let mut map = Array::<_, u64>::try_from(map).context("the map of the daemon's life")?;
    Ok(map.set(Life::Closing as u32, 1, 0)?)
}
