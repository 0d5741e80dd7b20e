//! Datagrams, as the programs have them: who receives them, and the flows of replies.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap as MapOf, MapData, SockMap},
};
use proxy_common::{
    Endpoint,
    datagram::{Flow, Receiver, ReversePath, Traffic, Way},
    flow::Tuple,
    map,
    shares::{Placed, RingSizes, Wanted},
};

use super::{
    aims::{AimedAt, Aims},
    claims::absent_is_fine,
    life,
    load::take,
    placer::Placer,
};

/// The flows of a service, and what has gone each way on them.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowSums {
    pub flows: u64,
    pub up: Traffic,
    pub down: Traffic,
}

/// The maps of UDP, but for the ports.
pub struct Datagrams {
    receivers: Mutex<MapOf<MapData, Endpoint, Receiver>>,
    aims: Mutex<Aims>,
    flows: Mutex<MapOf<MapData, Tuple, Flow>>,
    placer: Placer,
    catchers: Mutex<SockMap<MapData>>,
    reverse_paths: Mutex<MapOf<MapData, ReversePath, u32>>,
    life: Array<MapData, u64>,
}

/// What has become of a flow that was to be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    Yes,
    /// Another balancer speaks for its client.
    Taken,
    /// There are as many as there may be, or new ones come too fast.
    Full,
    /// Its service is drained.
    Drained,
}

/// Who is at the ends of a flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowEnds {
    pub balancer: SocketAddr,
    /// Where the balancer sends to.
    pub received_at: SocketAddr,
    pub client: SocketAddr,
    /// Where the client's datagrams for the application go.
    pub aim: SocketAddr,
    /// Where the client has sent to, as an SPP header says.
    pub stated: SocketAddr,
    /// Whether the balancer speaks for itself.
    pub is_local: bool,
}

/// A client's datagrams to an application.
#[derive(Clone, Debug)]
pub struct DatagramFlow {
    pub service: u32,
    pub ends: FlowEnds,
    /// [`Receiver`]'s flags.
    pub flags: u32,
    /// As its service's, in seconds.
    pub close_after: u32,
    pub age: Duration,
    pub up: Traffic,
    pub down: Traffic,
}

impl Datagrams {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let life = ebpf
            .map(map::LIFE)
            .context("the eBPF object has no map life")?;
        let life = || anyhow::Ok(life::again(life)?.try_into()?);
        let (life, lives) = (life()?, life()?);
        Ok(Self {
            receivers: Mutex::new(take(ebpf, map::RECEIVERS)?.try_into()?),
            aims: Mutex::new(Aims::new(take(ebpf, map::AIMS)?, lives)?),
            flows: Mutex::new(take(ebpf, map::DATAGRAM_FLOWS)?.try_into()?),
            placer: Placer::new(ebpf)?,
            catchers: Mutex::new(take(ebpf, map::CATCHERS)?.try_into()?),
            reverse_paths: Mutex::new(take(ebpf, map::REVERSE_PATHS)?.try_into()?),
            life,
        })
    }

    /// From here on, datagrams to `listen` are the service's.
    pub fn claim(&self, listen: SocketAddr, receiver: &Receiver) -> Result<()> {
        lock(&self.receivers)
            .insert(Endpoint::from(listen), receiver, 0)
            .with_context(|| format!("too many listen addresses at {listen}"))
    }

    /// Datagrams to `listen` are the host's.
    pub fn unclaim(&self, listen: SocketAddr) -> Result<()> {
        absent_is_fine(lock(&self.receivers).remove(&Endpoint::from(listen)))
            .with_context(|| format!("giving {listen} up"))
    }

    /// Whether a socket has got a datagram of this flow, where [`Kernel::tell_heard`] is asked for.
    ///
    /// [`Kernel::tell_heard`]: super::Kernel::tell_heard
    pub fn is_heard(&self, aim: SocketAddr, client: SocketAddr) -> bool {
        let reply = Tuple::new(aim.into(), client.into());
        let flow = lock(&self.flows).get(&reply, 0);
        flow.is_ok_and(|flow| flow.flags & Flow::HEARD != 0)
    }

    /// These are all the applications that there are.
    pub fn aim_at(&self, applications: &[AimedAt]) -> Result<()> {
        lock(&self.aims).set(applications)
    }

    /// Has these sockets, of IPv4 and of IPv6, get the replies that come to the spoof namespace.
    pub fn catch<'a, S: AsRawFd + 'a>(&self, sockets: impl Iterator<Item = &'a S>) -> Result<()> {
        let mut catchers = lock(&self.catchers);
        (0..).zip(sockets).try_for_each(|(family, socket)| {
            catchers
                .set(family, socket, 0)
                .context("handing a socket for replies to sk_lookup")
        })
    }

    /// Flows that are not over.
    pub fn iter(&self) -> Vec<DatagramFlow> {
        let now = life::now(&self.life);
        let flows = lock(&self.flows);
        let open = open(&flows, now);
        open.map(|(reply, flow)| described(&reply, &flow, now))
            .collect()
    }

    /// The same of each service, by its id.
    pub fn sums(&self) -> BTreeMap<u32, FlowSums> {
        let flows = lock(&self.flows);
        let mut sums = BTreeMap::<u32, FlowSums>::new();
        for (_, flow) in open(&flows, life::now(&self.life)) {
            let sum = sums.entry(flow.service).or_default();
            sum.flows += 1;
            for (sum, one) in [(&mut sum.up, flow.up), (&mut sum.down, flow.down)] {
                sum.datagrams += one.datagrams;
                sum.bytes += one.bytes;
            }
        }
        sums
    }

    /// Ends the flows that `wanted` picks, as their clients are denied; how many there were.
    pub fn deny(&self, wanted: impl Fn(&DatagramFlow) -> bool) -> Result<usize> {
        let ended = self.iter().into_iter().filter(wanted);
        let mut count = 0;
        for FlowEnds { aim, client, .. } in ended.map(|flow| flow.ends) {
            let (placed, _) = self.place(Wanted::Deny, aim, client, Flow::default())?;
            // It may have gone meanwhile.
            count += usize::from(placed == Placed::InTable);
        }
        Ok(count)
    }

    /// Counts flows of a service for their clients, who may have so many from here on; of how many that failed.
    pub fn count(&self, service: u32) -> usize {
        let of_service = |(reply, flow): (Tuple, Flow)| (flow.service == service).then_some(reply);
        let flows = lock(&self.flows);
        let all = flows.iter().filter_map(Result::ok);
        let replies: Vec<_> = all.filter_map(of_service).collect();
        drop(flows);
        // Others may have the lock for longer than the program waits.
        const TRIES: usize = 10;
        let is_counted = |reply: &Tuple| {
            let wanted = Wanted::Count;
            let count = || {
                self.placer
                    .place(wanted, *reply, Flow::default(), RingSizes::default())
            };
            (0..TRIES).any(|_| count().is_ok())
        };
        replies.iter().filter(|reply| !is_counted(reply)).count()
    }

    /// The flow of an application's replies from `aim` to a client; one more reply of so many bytes.
    pub fn reply(
        &self,
        aim: SocketAddr,
        client: SocketAddr,
        bytes: u64,
    ) -> Result<Option<DatagramFlow>> {
        let mut reply = Flow::default();
        reply.down.bytes = bytes;
        let (placed, flow) = self.place(Wanted::Reply, aim, client, reply)?;
        let reply = Tuple::new(aim.into(), client.into());
        let known = placed == Placed::InTable;
        Ok(known.then(|| described(&reply, &flow, life::now(&self.life))))
    }

    fn place(
        &self,
        wanted: Wanted,
        aim: SocketAddr,
        client: SocketAddr,
        flow: Flow,
    ) -> Result<(Placed, Flow)> {
        let reply = Tuple::new(aim.into(), client.into());
        self.placer.place(wanted, reply, flow, RingSizes::default())
    }

    /// One more datagram of `flow`, of so many bytes.
    pub fn note(&self, flow: &FlowEnds, receiver: &Receiver, bytes: u64) -> Result<Noted> {
        let now = life::now(&self.life);
        let local = if flow.is_local { Flow::LOCAL } else { 0 };
        let new = Flow {
            back: Tuple::new(flow.received_at.into(), flow.balancer.into()),
            service: receiver.service(),
            opened: now,
            last: now,
            spoken: now,
            flags: u16::try_from(receiver.flags() & !Receiver::DRAINED)? | local,
            close_after: u16::try_from(receiver.close_after())?,
            // Who speaks of two services by one socket hears each reply with the header of his last datagram.
            stated: flow.stated.into(),
            up: Traffic {
                datagrams: 1,
                bytes,
            },
            // What comes behind this one isn't to overtake it.
            daemon_up: now,
            way_back: link_of(flow.balancer).map_or_else(Way::default, Way::of_link),
            ..Flow::default()
        };
        let reply = Tuple::new(flow.aim.into(), flow.client.into());
        if receiver.has(Receiver::DRAINED) && !self.has_client(&reply, &new) {
            return Ok(Noted::Drained);
        }
        let (placed, _) = self
            .placer
            .place(Wanted::Note, reply, new, receiver.sizes())?;
        Ok(match placed {
            Placed::Taken => Noted::Taken,
            Placed::Full | Placed::ClientFull | Placed::TooFast => Noted::Full,
            Placed::InTable | Placed::Gone | Placed::Failed => Noted::Yes,
        })
    }

    /// Whether a service knows the client already, be it by another socket of his balancer's.
    fn has_client(&self, reply: &Tuple, flow: &Flow) -> bool {
        let known = lock(&self.flows).get(reply, 0);
        known.is_ok_and(|known| known.service == flow.service && !known.is_over(flow.last))
    }

    /// Whether a route to the balancer goes by a device, for the programs to know for a while.
    pub fn note_reverse_path(&self, balancer: IpAddr, device: u32, leads: bool) -> Result<()> {
        let path = ReversePath {
            balancer: balancer.into(),
            device,
        };
        let judgement = ReversePath::judgement(life::now(&self.life), leads);
        lock(&self.reverse_paths)
            .insert(path, judgement, 0)
            .context("noting a balancer's reverse path")
    }
}

fn open(flows: &MapOf<MapData, Tuple, Flow>, now: u32) -> impl Iterator<Item = (Tuple, Flow)> {
    let all = flows.iter().filter_map(Result::ok);
    all.filter(move |(_, flow)| !flow.is_over(now) && !flow.is_denied())
}

/// With its link, if its address means nothing without.
fn balancer(flow: &Flow) -> SocketAddr {
    let balancer = flow.back.destination();
    let mut told = SocketAddr::from(balancer);
    if let SocketAddr::V6(told) = &mut told
        && balancer.addr().is_of_link()
    {
        told.set_scope_id(flow.way_back.device);
    }
    told
}

fn described(reply: &Tuple, flow: &Flow, now: u32) -> DatagramFlow {
    DatagramFlow {
        service: flow.service,
        ends: FlowEnds {
            balancer: balancer(flow),
            received_at: flow.back.source().into(),
            client: reply.destination().into(),
            aim: reply.source().into(),
            stated: flow.stated.into(),
            is_local: flow.flags & Flow::LOCAL != 0,
        },
        flags: flow.flags.into(),
        close_after: flow.close_after.into(),
        age: life::between(flow.opened, now),
        up: flow.up,
        down: flow.down,
    }
}

/// The link that a balancer is on, if its address means nothing without.
pub(super) fn link_of(balancer: SocketAddr) -> Option<u32> {
    match balancer {
        SocketAddr::V6(balancer) => Some(balancer.scope_id()).filter(|link| *link != 0),
        SocketAddr::V4(_) => None,
    }
}

/// A panic elsewhere can't leave a map in a state that matters.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
