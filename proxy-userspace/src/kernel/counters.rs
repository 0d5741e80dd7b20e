//! The programs' counters, summed over the CPUs.

use anyhow::Result;
use aya::maps::{Map, MapData, PerCpuArray};
use proxy_common::Counter;

pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn new(map: Map) -> Result<Self> {
        Ok(Self(map.try_into()?))
    }

    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counter::ALL.iter().map(|counter| {
            let per_cpu = self.0.get(&(*counter as u32), 0);
            (
                counter.name(),
                per_cpu.map_or(0, |values| values.iter().sum()),
            )
        })
    }
}
