//! What the daemon and the programs know of its life, through a map that outlives it.

use std::{os::fd::AsFd, time::Duration};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData};
use proxy_common::{Life, flow::seconds};

/// The programs' clock, as of the daemon's last sign of life.
pub(super) fn now(life: &Array<MapData, u64>) -> u32 {
    seconds(life.get(&(Life::Beat as u32), 0).unwrap_or_default())
}

/// From one time of that clock to another.
pub(super) fn between(since: u32, now: u32) -> Duration {
    const TICK: Duration = Duration::from_nanos(1 << 30);
    TICK * now.saturating_sub(since)
}

/// The same map, for others.
pub(super) fn again(map: &Map) -> Result<Map> {
    let Map::Array(data) = map else {
        bail!("the map of the daemon's life is of another type");
    };
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    Ok(Map::Array(MapData::from_fd(fd)?))
}

/// From whoever holds the map `life`, for the programs: [`Life::Closing`], as that one ends what is open, and then
/// [`Life::Ending`].
pub fn say(what: Life, map: impl AsFd) -> Result<()> {
    let map = map.as_fd().try_clone_to_owned()?;
    let map = Map::from_map_data(MapData::from_fd(map)?)?;
    let mut map = Array::<_, u64>::try_from(map).context("the map of the daemon's life")?;
    Ok(map.set(what as u32, 1, 0)?)
}
