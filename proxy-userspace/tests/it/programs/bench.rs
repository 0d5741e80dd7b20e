//! A host with a daemon, whose programs are run by hand.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo, PerCpuArray};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions};
use proxy_common::flow::{Down, Rewrite, Tuple, Up};
use proxy_common::{Counter, Links};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::spray::Mac;
use crate::lab::stall::is_acknowledged;
use crate::lab::talk::Talk;

/// What a program can return, of linux/bpf.h.
pub const NEXT: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// [`Pair::v4`] or [`Pair::v6`].
pub type Family = fn(Pair, u16) -> std::net::SocketAddr;
pub const FAMILIES: [Family; 2] = [Pair::v4, Pair::v6];

/// A packet, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub frame: &'a [u8],
    /// The index of a device.
    pub device: u32,
    pub mark: u32,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub code: i32,
    pub frame: Vec<u8>,
}

/// The flow tables, less what is counted in them.
type Flows = (BTreeMap<String, Up>, BTreeMap<String, Rewrite>);

/// In the order of dropping: the lab checks what the daemon has left.
pub struct Bench {
    programs: BTreeMap<String, SchedClassifier>,
    maps: BTreeMap<String, u32>,
    counters: PerCpuArray<MapData, u64>,
    /// One connection of each family, open all the time.
    pub talks: [Talk; 2],
    pub apps: [App; 2],
    /// Of the link between balancer and host: its host's end, and both addresses.
    pub uplink: u32,
    pub balancers_mac: Mac,
    pub hosts_mac: Mac,
    /// Truepeer's own.
    pub device: u32,
    _truepeer: Proc,
    pub lab: Lab,
}

impl Bench {
    pub fn start(path: Path) -> Result<Self> {
        let lab = Lab::new()?;
        let [v4, v6] = LOOPBACK.both(APP_PORT);
        let apps = [App::listen(&lab.host, v4)?, App::listen(&lab.host, v6)?];
        let truepeer = lab.truepeer().args(path.args()).start()?;
        let [v4, v6] = FAMILIES.map(|family| open(&lab, &apps, family, path));
        let (programs, maps) = (programs(&truepeer)?, maps(&truepeer)?);
        let counters = map(&maps, "counters")?.try_into()?;
        let name = lab.shown("status")?["device"].take();
        let device = index(&lab, name.as_str().context("a device")?)?;
        Ok(Self {
            programs,
            maps,
            counters,
            talks: [v4?, v6?],
            apps,
            uplink: index(&lab, "edge")?,
            balancers_mac: lab.edge.mac("host")?,
            hosts_mac: lab.host.mac("edge")?,
            device,
            _truepeer: truepeer,
            lab,
        })
    }

    /// Runs a program with a packet.
    pub fn run(&self, program: &str, packet: Packet<'_>) -> Result<Ran> {
        self.lab.host.enter(|| self.run_here(program, packet))
    }

    /// The same on a thread that is in the host's namespace.
    pub fn run_here(&self, program: &str, packet: Packet<'_>) -> Result<Ran> {
        const LONGEST: usize = 4096;
        let program = self.programs.get(program);
        let program = program.with_context(|| "the daemon has no such program")?;
        let context = context(packet);
        let mut frame = vec![0; LONGEST];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet.frame);
        options.data_out = Some(&mut frame);
        options.ctx_in = Some(&context);
        let ran = program.test_run(options).context("running a program")?;
        frame.truncate(usize::try_from(ran.data_size_out)?);
        Ok(Ran {
            code: ran.return_value.cast_signed(),
            frame,
        })
    }

    /// With the programs believing that packets of the uplink have no Ethernet header.
    pub fn as_if_bare(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut links: Array<_, u32> = map(&self.maps, "links")?.try_into()?;
        let mut bare: HashMap<_, u32, u32> = map(&self.maps, "bare_devices")?.try_into()?;
        links.set(Links::AnyIsBare as u32, 1, 0)?;
        bare.insert(self.uplink, 0, 0)?;
        let done = work();
        bare.remove(&self.uplink)?;
        done
    }

    /// Runs a program, and says what was counted meanwhile.
    pub fn count(&self, program: &str, packet: Packet<'_>) -> Result<(Ran, Vec<&'static str>)> {
        let mut ran = None;
        let mut moved = self.moved(|| {
            ran = Some(self.run(program, packet)?);
            Ok(())
        })?;
        if program != "inject" {
            moved.retain(|name| *name != Counter::InjectStray.name());
        }
        Ok((ran.context("it has run")?, moved))
    }

    /// What is counted while `work` is done; of `dispatch` nothing: the kernel asks it whenever a
    /// program looks for the daemon's listener. At any time the spoof namespace may look for routers,
    /// which is a stray packet.
    pub fn moved(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<&'static str>> {
        let before = self.counts()?;
        work()?;
        let after = self.counts()?;
        let moved = Counter::ALL.iter().zip(before.iter().zip(&after));
        let moved = moved.filter(|(_, (before, after))| before != after);
        let moved = moved.map(|(counter, _)| counter.name());
        let moved = moved.filter(|name| *name != Counter::DispatchAccepted.name());
        Ok(moved.collect())
    }

    fn counts(&self) -> Result<Vec<u64>> {
        let all = Counter::ALL.iter();
        all.map(|counter| {
            let values = self.counters.get(&(*counter as u32), 0)?;
            Ok(values.iter().sum())
        })
        .collect()
    }

    /// One that comes in by the balancer's link.
    pub fn at_the_uplink<'a>(&self, frame: &'a [u8]) -> Packet<'a> {
        Packet {
            frame,
            device: self.uplink,
            mark: 0,
        }
    }

    /// What is in the tables of direct connections.
    pub fn flows(&self) -> Result<Flows> {
        let up: HashMap<_, Tuple, Up> = map(&self.maps, "flows_up")?.try_into()?;
        let down: HashMap<_, Tuple, Down> = map(&self.maps, "flows_down")?.try_into()?;
        let up = up.iter().map(|entry| entry.map(|(at, up)| (name(at), up)));
        let down = down.iter();
        let down = down.map(|entry| entry.map(|(at, down)| (name(at), down.rewrite)));
        Ok((
            up.collect::<Result<_, _>>()?,
            down.collect::<Result<_, _>>()?,
        ))
    }

    /// The app's end of a connection that comes by the daemon, or would.
    pub fn steered(&self, family: Family) -> Result<std::net::SocketAddr> {
        Ok(self.talk(family).app.local_addr()?)
    }

    pub fn talk(&self, family: Family) -> &Talk {
        let [v4, v6] = &self.talks;
        if is_v4(family) { v4 } else { v6 }
    }
}

pub fn is_v4(family: Family) -> bool {
    family(HOST, 0).is_ipv4()
}

fn name(tuple: Tuple) -> String {
    format!("{tuple:?}")
}

/// So that there is a connection, and the host knows its neighbours.
fn open(lab: &Lab, [v4, v6]: &[App; 2], family: Family, path: Path) -> Result<Talk> {
    const PORT: u16 = 20_000;
    let header = Version::V2.header(family(CLIENT, PORT), family(FRONT, FRONT_PORT));
    let balancer = lab.balancer_to(family(HOST, TRUEPEER_PORT), &header)?;
    let app = if is_v4(family) { v4 } else { v6 };
    let mut talk = Talk::accept(balancer, app, family(CLIENT, PORT))?;
    talk.warm_up(lab, path)?;
    // An acknowledgment that comes later would be counted with something else.
    poll::until("the last acknowledgments", || {
        let are_there = is_acknowledged(&talk.app)? && is_acknowledged(&talk.balancer)?;
        Ok(are_there.then_some(()))
    })?;
    Ok(talk)
}

/// As far as the kernel takes it: a mark, and the index of a device; `lo` must not be said.
fn context(packet: Packet<'_>) -> [u8; 44] {
    const LO: u32 = 1;
    let mut context = [0; 44];
    context[8..12].copy_from_slice(&packet.mark.to_ne_bytes());
    if packet.device != LO {
        context[40..44].copy_from_slice(&packet.device.to_ne_bytes());
    }
    context
}

fn programs(truepeer: &Proc) -> Result<BTreeMap<String, SchedClassifier>> {
    let mut programs = BTreeMap::new();
    let ids = truepeer.fd_info("prog_id")?;
    for info in aya::programs::loaded_programs() {
        let info: ProgramInfo = info?;
        if !ids.contains(&info.id().into()) {
            continue;
        }
        let name = info.name_as_str().unwrap_or_default().to_owned();
        // dispatch is of another type.
        if let Ok(program) = SchedClassifier::from_program_info(info, name.clone().into()) {
            programs.insert(name, program);
        }
    }
    ensure!(!programs.is_empty(), "the daemon has no programs");
    Ok(programs)
}

fn maps(truepeer: &Proc) -> Result<BTreeMap<String, u32>> {
    let mut maps = BTreeMap::new();
    for id in truepeer.fd_info("map_id")? {
        let info = MapInfo::from_id(u32::try_from(id)?)?;
        maps.insert(info.name_as_str().unwrap_or_default().to_owned(), info.id());
    }
    Ok(maps)
}

fn map(maps: &BTreeMap<String, u32>, name: &str) -> Result<Map> {
    let id = maps.get(name).with_context(|| format!("no map {name}"))?;
    Ok(Map::from_map_data(MapData::from_id(*id)?)?)
}

fn index(lab: &Lab, device: &str) -> Result<u32> {
    let described = lab.host.run(&format!("ip -o link show dev {device}"))?;
    let (index, _) = described.split_once(':').context("an index")?;
    Ok(index.parse()?)
}
