//! Loading the programs for one device, and filling the maps that say what is served.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap as MapOf, MapData, SockMap},
    programs::{CgroupSockAddr, SchedClassifier, SkLookup, Xdp},
};
use aya_log::EbpfLogger;
use proxy_common::{
    Endpoint, Listener, datagram::Receiver, global, limits::TallyKey, map, program,
};

use super::{
    attach::{Attachment, Tc},
    counters::Counters,
    datagrams::Datagrams,
    devices::Devices,
    direct::Direct,
    features::{Feature, has_tcx},
    firsts::Firsts,
    guards::Guards,
    heart::Heart,
    kfunc,
    last_resort::LastResort,
    log,
    low::LowFds,
    share::{self, Change, Inheritance},
    tallies::Tallies,
    types,
};
use crate::{
    netns::{Device, Entrance, LinkEvent, SteerNet, SteerNets},
    sys,
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRUEPEER_EBPF"));

/// Where the programs stand between the host and the spoof namespace.
pub struct Placement<'a> {
    pub device: &'a Device,
    pub steer: &'a SteerNets,
    /// The id of the spoof namespace.
    pub spoof_netns: u32,
    /// Whether packets enter the host by `lo` rather than by the veth.
    pub via_lo: bool,
    /// Whether connections may be direct.
    pub direct: bool,
    /// What is served.
    pub protocols: Protocols,
    pub spoof: BorrowedFd<'a>,
}

/// Which protocols services have.
#[derive(Clone, Copy, Debug)]
pub struct Protocols {
    pub tcp: bool,
    pub udp: bool,
    /// Of UDP, all flags that a [`Receiver`] has.
    pub receivers: u32,
}

impl Protocols {
    pub(super) const fn v2_first(self) -> bool {
        self.receivers & Receiver::V2_FIRST != 0
    }

    fn unused_maps(self) -> impl Iterator<Item = &'static str> {
        let each = [
            (self.udp, map::DATAGRAM_FLOWS),
            (self.udp, map::DATAGRAM_SLOTS),
            (self.udp, map::DATAGRAM_SHARES),
            (self.v2_first(), map::FIRSTS),
            (self.v2_first(), map::SPOKEN),
            (self.udp, map::REPLY_PIECES),
            (self.udp, map::REVERSE_PATHS),
        ];
        let unused = each.into_iter().filter(|(is_used, _)| !is_used);
        unused.map(|(_, name)| name)
    }
}

/// The loaded programs. Dropping it detaches and unloads them all; the lists stay pinned.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) devices: Devices,
    pub(super) guards: Guards,
    /// On devices that stay.
    attached: Vec<Attachment>,
    /// Whether maps are those of a daemon before this one.
    is_heir: bool,
    pub(super) listeners: MapOf<MapData, Endpoint, Listener>,
    pub(super) sockets: SockMap<MapData>,
    pub(super) targets: MapOf<MapData, Endpoint, Endpoint>,
    ports: Array<MapData, u32>,
    /// Places of claims among the sockets.
    pub(super) taken_sockets: HashSet<u32>,
    /// Last: what it cleans up is free once the programs are gone.
    pub(super) tc: Tc,
}

impl Kernel {
    /// The programs adopt the maps pinned at `pins`, or make and pin them. Where programs have to be
    /// told apart by name, it is `instance`'s.
    pub fn load(
        instance: &str,
        pins: &Path,
        placement: &Placement<'_>,
        low: LowFds,
        inherited: Option<Inheritance>,
    ) -> Result<Self> {
        let (maps, links) = inherited.map_or((None, HashMap::new()), |inherited| {
            (Some(inherited.maps), inherited.links)
        });
        let (btf, offsets) = types::read(placement.protocols.udp);
        let btf = btf.context("reading the kernel's types, /sys/kernel/btf/vmlinux")?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).default_map_pin_directory(pins);
        if let Some(maps) = &maps {
            maps.tell(&mut loader);
        }
        let unset = Default::default();
        let steer = |net: Option<SteerNet>| net.map_or(unset, |net| net.for_programs());
        let (steer4, steer6) = (steer(placement.steer.v4), steer(placement.steer.v6));
        let via_lo = u32::from(placement.via_lo);
        let stays = u32::from(!matches!(has_tcx(), Feature::Present));
        let host_netns =
            sys::netns_cookie().context("asking for this network namespace's cookie")?;
        for name in placement.protocols.unused_maps() {
            // They would take some megabytes.
            loader.map_max_entries(name, 1);
        }
        let mut object = OBJECT.to_vec();
        kfunc::resolve(&mut object, &btf)?;
        let mut ebpf = loader
            .override_global(global::STEER4, &steer4, true)
            .override_global(global::STEER6, &steer6, true)
            .override_global(global::DEVICE, &placement.device.index, true)
            .override_global(global::SPOOF_NETNS, &placement.spoof_netns, true)
            .override_global(global::VIA_LO, &via_lo, true)
            .override_global(global::HOST_NETNS, &host_netns, true)
            .override_global(global::OFFSETS, &offsets, true)
            .override_global(global::STAYS, &stays, true)
            .override_global(global::OWNER, &owner()?, true)
            .override_global(global::RECEIVERS_HAVE, &placement.protocols.receivers, true)
            .load(&object)
            .context("loading the eBPF programs (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)")?;
        load_programs(&mut ebpf, placement)?;
        run(&ebpf, program::BEAT)?;
        let changes = share::hold_maps(&ebpf, placement.protocols)?;
        Ok(Self {
            is_heir: maps.is_some(),
            attached: Vec::new(),
            listeners: take(&mut ebpf, map::LISTENERS)?.try_into()?,
            sockets: take(&mut ebpf, map::SOCKETS)?.try_into()?,
            targets: take(&mut ebpf, map::TARGETS)?.try_into()?,
            ports: take(&mut ebpf, map::PORTS)?.try_into()?,
            taken_sockets: HashSet::new(),
            devices: Devices::new(&mut ebpf, placement)?,
            guards: Guards::new(&mut ebpf)?,
            tc: Tc::new(instance, low, links, changes),
            ebpf,
        })
    }

    /// For a check: has flows remember that a socket has got their datagrams.
    pub fn tell_heard(&mut self) -> Result<()> {
        let heard = super::attach::attach_heard(&mut self.ebpf, &mut self.tc)?;
        self.attached.push(heard);
        Ok(())
    }

    /// Attaches all but the programs that follow the host's devices.
    pub fn attach(&mut self, placement: &Placement<'_>) -> Result<()> {
        self.attached = super::attach::attach(&mut self.ebpf, &mut self.tc, placement)?;
        Ok(())
    }

    /// All that was left and is still needed has been attached.
    pub fn drop_left(&mut self) {
        self.tc.drop_left();
    }

    /// Whether another daemon can continue with what this one has.
    pub fn can_be_inherited(&self) -> bool {
        self.tc.can_be_inherited()
    }

    /// What is to be told to the keeper since the last time.
    pub fn changes(&mut self) -> Vec<Change> {
        self.tc.changes()
    }

    /// Puts programs on the host's devices; what nothing leads to may be left for [`Self::catch_up`].
    pub fn follow_all(
        &mut self,
        events: Vec<LinkEvent>,
        own: &Device,
        routed: Option<&HashSet<u32>>,
    ) {
        let (ebpf, tc) = (&mut self.ebpf, &mut self.tc);
        events.iter().for_each(|event| self.guards.note(event));
        self.devices.follow_all(ebpf, tc, events, own, routed);
    }

    /// Whether devices have been left for later.
    pub fn is_behind(&self) -> bool {
        self.devices.is_behind()
    }

    /// Puts programs on one of them.
    pub fn catch_up(&mut self) {
        self.devices.catch_up(&mut self.ebpf, &mut self.tc);
    }

    /// Keeps programs on the host's devices.
    pub fn follow(&mut self, event: LinkEvent, own: &Device) {
        let (ebpf, tc) = (&mut self.ebpf, &mut self.tc);
        self.guards.note(&event);
        self.guards.follow(ebpf, tc);
        self.devices.follow(ebpf, tc, event, own);
    }

    /// Has clients of a steer address come in by a device. What has entered by it goes on to.
    pub fn enter_by(&mut self, entrances: &[(SocketAddr, Entrance)]) -> Result<()> {
        let (ebpf, tc) = (&mut self.ebpf, &mut self.tc);
        entrances.iter().try_for_each(|(steer, entrance)| {
            self.devices
                .enter_by(ebpf, tc, Endpoint::from(*steer), entrance)
        })
    }

    /// By steer address the devices that clients come in by.
    pub fn entered(&self) -> Vec<(Endpoint, u32)> {
        self.devices.entered()
    }

    /// Has clients of a steer address come in as everybody's.
    pub fn leave_for_all(&mut self, steer: &Endpoint) {
        self.devices.leave_for_all(steer);
    }

    pub fn counters(&mut self) -> Result<Counters> {
        Counters::new(take(&mut self.ebpf, map::COUNTERS)?)
    }

    pub fn last_resort(&mut self) -> Result<LastResort> {
        LastResort::new(&mut self.ebpf)
    }

    pub fn direct(&mut self) -> Result<Direct> {
        Direct::new(&mut self.ebpf, self.is_heir)
    }

    /// Says twice a second, until it is dropped, that the daemon is there: without it, nobody new gets
    /// in after two seconds.
    pub fn heart(&self) -> Result<Heart> {
        Heart::start(descriptor(&self.ebpf, program::BEAT)?.try_clone_to_owned()?)
    }

    /// Has the programs look after direct connections that are over, and tell of them.
    pub fn sweep(&self) -> Result<()> {
        run(&self.ebpf, program::SWEEP)
    }

    /// Passes what the programs log on to `tracing`, on the current runtime.
    pub fn forward_log(&mut self) -> Result<()> {
        log::forward(EbpfLogger::init(&mut self.ebpf).context("opening the programs' log")?)
    }

    /// A service is at this port.
    pub fn claim_port(&mut self, (word, bit): (u32, u32)) -> Result<()> {
        let bits = self.ports.get(&word, 0)? | 1 << bit;
        Ok(self.ports.set(word, bits, 0)?)
    }

    /// Before [`Self::direct`] as well.
    pub fn tallies(&mut self) -> Result<Tallies> {
        Tallies::new(&mut self.ebpf)
    }

    /// Before [`Self::direct`], which takes what both know of the daemon's life.
    pub fn datagrams(&mut self) -> Result<Datagrams> {
        Datagrams::new(&mut self.ebpf)
    }

    /// Of UDP as well, and before it too.
    pub fn firsts(&mut self) -> Result<Firsts> {
        Firsts::new(&mut self.ebpf)
    }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the eBPF object has no map {name}"))
}

pub(super) fn descriptor<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>> {
    let program = ebpf.program(name);
    let program = program.with_context(|| format!("the eBPF object has no program {name}"))?;
    Ok(program.fd()?.as_fd())
}

/// One that no packet runs.
fn run(ebpf: &Ebpf, name: &str) -> Result<()> {
    sys::bpf::run(descriptor(ebpf, name)?).with_context(|| format!("running program {name}"))
}

/// A number that no other daemon of the instance has.
fn owner() -> Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("a number for this daemon")?;
    Ok(TallyKey::owner_from(u32::from_ne_bytes(bytes)))
}

fn load_programs(ebpf: &mut Ebpf, placement: &Placement<'_>) -> Result<()> {
    let context = |name: &str| format!("the kernel refused program {name}");
    let Protocols { tcp, udp, .. } = placement.protocols;
    let always = [
        program::INJECT,
        program::DELIVER,
        program::BEAT,
        program::PLACE,
        program::TALLY,
    ];
    let steering = [program::REPLY, program::REPLY_OWN, program::REPLY_REMOTE];
    let direct = [program::DIRECT, program::SWEEP];
    let refusing = [program::REFUSE];
    let datagrams = [
        program::DATAGRAMS_IN,
        program::DATAGRAMS_OUT,
        program::DATAGRAMS_OUT_OWN,
    ];
    let groups = [
        (true, &always[..]),
        (tcp, &steering),
        (tcp && placement.direct, &direct),
        (tcp && !placement.direct, &refusing),
        (udp, &datagrams),
    ];
    let needed = groups.iter().filter(|(is_needed, _)| *is_needed);
    for &name in needed.flat_map(|(_, names)| *names) {
        let program: &mut SchedClassifier = super::attach::program(ebpf, name)?;
        program.load().with_context(|| context(name))?;
    }
    for name in super::attach::UNROUTED.map(|(name, _)| name) {
        let program: &mut CgroupSockAddr = super::attach::program(ebpf, name)?;
        program.load().with_context(|| context(name))?;
    }
    let guard: &mut Xdp = super::attach::program(ebpf, program::GUARD)?;
    guard.load().with_context(|| context(program::GUARD))?;
    let lookups = [(true, program::DISPATCH), (udp, program::CATCH)];
    for (_, name) in lookups.into_iter().filter(|(is_needed, _)| *is_needed) {
        let lookup: &mut SkLookup = super::attach::program(ebpf, name)?;
        lookup.load().with_context(|| context(name))?;
    }
    Ok(())
}
