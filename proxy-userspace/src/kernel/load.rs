//! Loading the programs for one device, and filling the maps that say what is served.

use std::{net::SocketAddr, os::fd::AsRawFd, path::Path, sync::Arc};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, SockMap},
    programs::{SchedClassifier, SkLookup},
};
use aya_log::EbpfLogger;
use proxy_common::{Endpoint, Listener, global, handover::port_bit, map, program};

use super::{
    attach::{Replies, Tc},
    counters::Counters,
    handover::Handover,
    log,
    low::LowFds,
};
use crate::netns::{Device, LinkEvent, SteerNet, SteerNets};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TRUEPEER_EBPF"));

/// Where the programs stand between the host and the spoof namespace.
pub struct Placement<'a> {
    pub device: &'a Device,
    pub steer: &'a SteerNets,
    /// The id of the spoof namespace.
    pub spoof_netns: u32,
    /// Whether packets enter the host by `lo` rather than by the veth.
    pub via_lo: bool,
    /// Whether connections are handed over.
    pub handover: bool,
}

/// The loaded programs. Dropping it detaches and unloads them all; the allowlist stays pinned.
pub struct Kernel {
    ebpf: Ebpf,
    replies: Replies,
    listeners: HashMap<MapData, Endpoint, Listener>,
    sockets: SockMap<MapData>,
    targets: HashMap<MapData, Endpoint, Endpoint>,
    remotes: HashMap<MapData, Endpoint, u32>,
    ports: Array<MapData, u32>,
    /// Sockets handed out so far, which is the next one's index.
    next_socket: u32,
    /// Last: what it cleans up is free once the programs are gone.
    tc: Tc,
}

impl Kernel {
    /// The programs adopt the maps pinned at `pins`, or make and pin them. Where programs have to be
    /// told apart by name, it is `instance`'s.
    pub fn load(
        instance: &str,
        pins: &Path,
        placement: &Placement<'_>,
        low: LowFds,
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins);
        let unset = Default::default();
        let steer = |net: Option<SteerNet>| net.map_or(unset, |net| net.for_programs());
        let (steer4, steer6) = (steer(placement.steer.v4), steer(placement.steer.v6));
        let via_lo = u32::from(placement.via_lo);
        let mut ebpf = loader
            .override_global(global::STEER4, &steer4, true)
            .override_global(global::STEER6, &steer6, true)
            .override_global(global::DEVICE, &placement.device.index, true)
            .override_global(global::SPOOF_NETNS, &placement.spoof_netns, true)
            .override_global(global::VIA_LO, &via_lo, true)
            .override_global(global::HANDOVER, &u32::from(placement.handover), true)
            .load(OBJECT)
            .context("loading the eBPF programs (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)")?;
        load_programs(&mut ebpf)?;
        Ok(Self {
            listeners: take(&mut ebpf, map::LISTENERS)?.try_into()?,
            sockets: take(&mut ebpf, map::SOCKETS)?.try_into()?,
            targets: take(&mut ebpf, map::TARGETS)?.try_into()?,
            remotes: take(&mut ebpf, map::REMOTES)?.try_into()?,
            ports: take(&mut ebpf, map::PORTS)?.try_into()?,
            next_socket: 0,
            replies: Replies::new(placement.handover),
            tc: Tc::new(instance, low),
            ebpf,
        })
    }

    /// Attaches all but the reply programs, which follow the host's devices.
    pub fn attach(&mut self, placement: &Placement<'_>) -> Result<()> {
        super::attach::attach(&mut self.ebpf, &mut self.tc, placement)
    }

    /// Keeps the reply programs on the host's devices.
    pub fn follow(&mut self, event: LinkEvent, own: &Device) {
        self.replies
            .follow(&mut self.ebpf, &mut self.tc, event, own);
    }

    pub fn counters(&mut self) -> Result<Counters> {
        Counters::new(take(&mut self.ebpf, map::COUNTERS)?)
    }

    /// Where connections are handed over to; hears of their ends on the current runtime.
    pub fn handover(&mut self, own: &Device) -> Result<Arc<Handover>> {
        Handover::new(&mut self.ebpf, own.index)
    }

    /// Passes what the programs log on to `tracing`, on the current runtime.
    pub fn forward_log(&mut self) -> Result<()> {
        log::forward(EbpfLogger::init(&mut self.ebpf).context("opening the programs' log")?)
    }

    /// From here on, connections to `listen` are the service's; without a socket they get a RST.
    pub fn claim(&mut self, listen: SocketAddr, service: u32) -> Result<Claim> {
        let claim = Claim {
            listen,
            socket: self.next_socket,
        };
        self.listeners
            .insert(
                Endpoint::from(listen),
                Listener::new(service, claim.socket),
                0,
            )
            .with_context(|| format!("too many listen addresses at {listen}"))?;
        let (word, bit) = port_bit(listen.port());
        let bits = self.ports.get(&word, 0)? | 1 << bit;
        self.ports.set(word, bits, 0)?;
        self.next_socket += 1;
        Ok(claim)
    }

    /// Connections to the claimed address go to `socket` and to those that share its address.
    pub fn serve(&mut self, claim: &Claim, socket: &impl AsRawFd) -> Result<()> {
        self.sockets
            .set(claim.socket, socket, 0)
            .with_context(|| format!("handing the listener at {} to sk_lookup", claim.listen))
    }

    /// Nothing is there any more: the kernel answers RST.
    pub fn release(&mut self, claim: &Claim) {
        let _ = self.listeners.remove(&Endpoint::from(claim.listen));
    }

    /// Connections to `steered` reach what listens at `target`.
    pub fn add_target(&mut self, steered: SocketAddr, target: SocketAddr) -> Result<()> {
        self.targets
            .insert(Endpoint::from(steered), Endpoint::from(target), 0)
            .with_context(|| format!("too many targets at {target}"))
    }

    /// Connections to `target` leave this host, and what answers comes back through it.
    pub fn add_remote(&mut self, target: SocketAddr) -> Result<()> {
        self.replies.follow_remotes();
        self.remotes
            .insert(Endpoint::from(target), 0, 0)
            .with_context(|| format!("too many targets at {target}"))
    }
}

/// A listen address that `dispatch` knows.
pub struct Claim {
    listen: SocketAddr,
    socket: u32,
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the eBPF object has no map {name}"))
}

fn load_programs(ebpf: &mut Ebpf) -> Result<()> {
    let context = |name: &str| format!("the kernel refused program {name}");
    for name in [
        program::REPLY,
        program::REPLY_L3,
        program::REPLY_OWN,
        program::REPLY_REMOTE,
        program::REPLY_REMOTE_L3,
        program::INJECT,
        program::DELIVER,
        program::FORWARD,
    ] {
        let program: &mut SchedClassifier = super::attach::program(ebpf, name)?;
        program.load().with_context(|| context(name))?;
    }
    let dispatch: &mut SkLookup = super::attach::program(ebpf, program::DISPATCH)?;
    dispatch.load().with_context(|| context(program::DISPATCH))
}
