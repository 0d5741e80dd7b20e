//! The programs' own tables of direct connections and of datagrams, whatever the daemon says of them.

use std::ffi::c_long;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use proxy_common::datagram::Flow;
use proxy_common::flow::Tuple;
use proxy_common::map::DATAGRAM_FLOWS;

use super::poll;
use super::proc::Proc;

const MAPS: [&str; 2] = ["flows_up", "flows_down"];
/// Of linux/bpf.h.
const BPF_MAP_GET_NEXT_KEY: c_long = 4;

/// The argument of the system call, as far as this one command reads it.
#[repr(C)]
struct NextKey {
    map: u32,
    _padding: u32,
    key: u64,
    next: u64,
}

/// Waits until none is left, in either direction, of all that this daemon knows.
pub fn wait_none(truepeer: &Proc) -> Result<()> {
    let tables = tables(truepeer)?;
    let mut left = [0; 2];
    poll::until("the kernel to forget its flows", || {
        left = lengths(&tables)?;
        Ok((left == [0, 0]).then_some(()))
    })
    .with_context(|| format!("left are {left:?} of {MAPS:?}"))
}

/// Looking for them asks for the lock of all network devices.
fn tables(truepeer: &Proc) -> Result<[MapInfo; 2]> {
    let mut found = [None, None];
    for id in truepeer.fd_info("map_id")? {
        let info = MapInfo::from_id(u32::try_from(id)?)?;
        let name = info.name_as_str();
        if let Some(at) = MAPS.iter().position(|map| name == Some(map)) {
            found[at] = Some(info);
        }
    }
    let [Some(up), Some(down)] = found else {
        bail!("the daemon has no {MAPS:?}");
    };
    Ok([up, down])
}

/// How many entries each has.
fn lengths([up, down]: &[MapInfo; 2]) -> Result<[usize; 2]> {
    let length = |table: &MapInfo| keys(table.fd()?.as_fd(), table.key_size());
    Ok([length(up)?, length(down)?])
}

/// Has the programs forget which connections were given to the daemon, as they do after a minute.
pub fn forget_given(truepeer: &Proc) -> Result<()> {
    for id in truepeer.fd_info("map_id")? {
        let id = u32::try_from(id)?;
        if MapInfo::from_id(id)?.name_as_str() == Some("given") {
            let map = Map::Array(MapData::from_id(id)?);
            let mut given: Array<_, u32> = map.try_into()?;
            return (0..given.len()).try_for_each(|place| Ok(given.set(place, 0, 0)?));
        }
    }
    bail!("the daemon has no such map")
}

/// Nothing can be older than the machine's own clock, which has begun when it was started.
pub fn wait_for_age(seconds: u32) -> Result<()> {
    loop {
        let uptime = fs::read_to_string("/proc/uptime")?;
        let whole = uptime.split('.').next().context("a number")?;
        if whole.parse::<u32>()? > seconds {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Has all flows of datagrams be so many seconds older, and silent for as long.
pub fn age(truepeer: &Proc, seconds: u32) -> Result<()> {
    const EXIST: u64 = 2;
    for id in truepeer.fd_info("map_id")? {
        let id = u32::try_from(id)?;
        if MapInfo::from_id(id)?.name_as_str() == Some(DATAGRAM_FLOWS) {
            let map = Map::HashMap(MapData::from_id(id)?);
            let mut flows: HashMap<_, Tuple, Flow> = map.try_into()?;
            let all = flows.iter().collect::<Result<Vec<_>, _>>()?;
            ensure!(!all.is_empty(), "there is none");
            for (reply, mut flow) in all {
                flow.opened -= seconds;
                flow.last -= seconds;
                flow.spoken -= seconds;
                flows.insert(reply, flow, EXIST)?;
            }
            return Ok(());
        }
    }
    bail!("the daemon has no {DATAGRAM_FLOWS}")
}

/// Entries that go meanwhile make it begin anew, which is why it has an end.
fn keys(map: BorrowedFd<'_>, size: u32) -> Result<usize> {
    const MOST: usize = 1 << 20;
    let mut key: Option<Vec<u8>> = None;
    for count in 0..MOST {
        match next_key(map, key.as_deref(), size)? {
            Some(next) => key = Some(next),
            None => return Ok(count),
        }
    }
    bail!("more than {MOST} entries");
}

fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, size: u32) -> Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; usize::try_from(size)?];
    ensure!(key.is_none_or(|key| key.len() == next.len()));
    let argument = NextKey {
        map: map.as_raw_fd().try_into()?,
        _padding: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        next: next.as_mut_ptr() as u64,
    };
    let length = size_of::<NextKey>();
    // SAFETY: the kernel reads the argument and the key, and writes the next one; both are as long
    // as the map's keys.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_GET_NEXT_KEY,
            &raw const argument,
            length,
        )
    };
    match result {
        0 => Ok(Some(next)),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            error => Err(error).context("reading a table of flows"),
        },
    }
}
