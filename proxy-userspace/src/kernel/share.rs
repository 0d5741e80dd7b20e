//! What outlives a daemon: the maps and links that its keeper holds, under names that the next daemon
//! knows.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use proxy_common::{map, program};

use super::{
    adopt::Adopted,
    link::{Hook, Link, LinkPlace},
    load::Protocols,
};

/// Maps that open connections depend on, and the counters. All others say what is served, which each
/// daemon says anew; a port's bit stays, for what is open there.
const SHARED: [&str; 14] = [
    map::FLOWS_UP,
    map::FLOWS_DOWN,
    map::PENDING,
    map::SHARES,
    map::SECRET,
    map::LIFE,
    map::HEADERS,
    map::GIVEN,
    map::SPENT,
    map::PORTS,
    map::BOUND,
    map::COUNTERS,
    map::TALLIES,
    map::LOCKS,
];
/// The same of UDP, where what is served needs them: elsewhere they are without room.
const OF_UDP: [&str; 3] = [
    map::DATAGRAM_FLOWS,
    map::DATAGRAM_SLOTS,
    map::DATAGRAM_SHARES,
];
/// The same where headers are on first datagrams alone.
const OF_V2_FIRST: [&str; 2] = [map::FIRSTS, map::SPOKEN];

/// What the keeper has to hear of.
#[derive(Debug)]
pub enum Change {
    Hold(String, OwnedFd),
    Release(String),
}

/// What a daemon before this one left.
pub struct Inheritance {
    pub maps: Adopted,
    pub links: HashMap<String, (LinkPlace, OwnedFd)>,
}

/// The name of a map for the keeper.
pub fn map_name(name: &str) -> String {
    format!("map:{name}")
}

/// The map of this name for the keeper, if it is one that is adopted.
pub fn shared_map(held: &str) -> Option<&str> {
    let name = held.strip_prefix("map:")?;
    let mut all = SHARED.iter().chain(&OF_UDP).chain(&OF_V2_FIRST);
    all.any(|shared| *shared == name).then_some(name)
}

pub const LINK: &str = "link:";

/// The name of a link for the keeper. Programs that take turns in one place have one name.
pub fn link_name(program: &str, device: u32) -> String {
    let job = match program {
        program::DIRECT | program::REFUSE => "admit",
        other => other,
    };
    format!("{LINK}{job}:{device}")
}

/// Has the keeper hold what is shared.
pub fn hold_maps(ebpf: &Ebpf, protocols: Protocols) -> Result<Vec<Change>> {
    let hold = |name: &str| {
        let map = ebpf.map(name).and_then(data);
        let map = map.with_context(|| format!("the eBPF object has no map {name}"))?;
        let fd = map.fd().as_fd().try_clone_to_owned()?;
        Ok(Change::Hold(map_name(name), fd))
    };
    let groups = [
        (true, &SHARED[..]),
        (protocols.udp, &OF_UDP),
        (protocols.v2_first(), &OF_V2_FIRST),
    ];
    let needed = groups.iter().filter(|(is_needed, _)| *is_needed);
    needed
        .flat_map(|(_, names)| *names)
        .copied()
        .map(hold)
        .collect()
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::HashMap(data) | Map::LruHashMap(data) | Map::Array(data) | Map::PerCpuArray(data) => {
            Some(data)
        }
        _ => None,
    }
}

/// The link of that name and place, if it was left, with `program` in it from now on; or a new one.
pub fn link(
    left: &mut HashMap<String, (LinkPlace, OwnedFd)>,
    name: &str,
    hook: Hook<'_>,
    program: impl AsFd,
) -> Result<Link> {
    if let Some((place, fd)) = left.remove(name)
        && place == hook.place()?
    {
        let link = Link::adopt(fd);
        link.replace_program(program)
            .with_context(|| format!("changing the program of {name}"))?;
        return Ok(link);
    }
    Ok(Link::create(program, hook)?)
}
