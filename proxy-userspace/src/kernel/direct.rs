//! Direct connections, as the programs have them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, RingBuf, lpm_trie::Key},
};
use ipnet::IpNet;
use proxy_common::{
    Addr, Host, Life,
    cookie::spent,
    flow::{Down, Kept, Told, Tuple, flag, told},
    map,
};

use super::{life, load::take};

/// The maps of the direct path.
pub struct Direct {
    flows: Arc<Flows>,
    headers: Headers,
    told: RingBuf<MapData>,
    life: Array<MapData, u64>,
    host: Array<MapData, Host>,
    locals: HashMap<MapData, Addr, u32>,
    local_nets: LpmTrie<MapData, Addr, u32>,
}

/// The flow table, and what is counted of it.
pub struct Flows {
    down: HashMap<MapData, Tuple, Down>,
    spent: Array<MapData, u64>,
    life: Array<MapData, u64>,
}

/// What is known of a direct connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Nothing,
    /// Its first segment is on its way to the application, or was lost there.
    Coming,
    /// Its socket was there.
    Seen,
}

impl Flows {
    /// Of a client's direct connection to an application, which is at `steered`.
    pub fn look(&self, client: SocketAddr, steered: SocketAddr) -> Known {
        let tuple = Tuple::new(steered.into(), client.into());
        match self.down.get(&tuple, 0) {
            Ok(down) if down.told & told::ENDED != 0 => Known::Nothing,
            Ok(down) if down.was_seen() || self.is_spent(&down) => Known::Seen,
            Ok(_) => Known::Coming,
            Err(_) => Known::Nothing,
        }
    }

    fn is_spent(&self, down: &Down) -> bool {
        let last = self.spent.get(&spent::place(down.down_base), 0);
        last.is_ok_and(|last| last == spent::word(down.down_base, down.up_base))
    }

    /// How many are open.
    pub fn count(&self) -> u64 {
        Life::open(|of| self.life.get(&(of as u32), 0).unwrap_or_default())
    }
}

/// A direct connection.
#[derive(Clone, Debug)]
pub struct Flow {
    pub service: u32,
    pub balancer: SocketAddr,
    pub client: SocketAddr,
    /// The application's end, as its packets say.
    pub steered: SocketAddr,
    /// Of the header.
    pub version: u16,
    /// All of it, if it has TLVs.
    pub header: Option<Vec<u8>>,
    /// How long ago the header came.
    pub age: Duration,
    /// Bytes, without the header.
    pub up: u64,
    pub down: u64,
    /// A daemon has heard that it is open.
    pub is_told: bool,
}

/// What has happened to a direct connection.
#[derive(Clone, Debug)]
pub enum Heard {
    Opened(Flow),
    /// Both sides closed.
    Closed(Flow),
    Reset(Flow),
}

impl Direct {
    /// An heir has the secret of who was before it: cookies are on their way.
    pub(super) fn new(ebpf: &mut Ebpf, is_heir: bool) -> Result<Self> {
        let mut secret: Array<_, [u64; 2]> = take(ebpf, map::SECRET)?.try_into()?;
        if !is_heir {
            secret.set(0, random()?, 0).context("the cookies' secret")?;
        }
        let life = take(ebpf, map::LIFE)?;
        let flows = Flows {
            down: take(ebpf, map::FLOWS_DOWN)?.try_into()?,
            spent: take(ebpf, map::SPENT)?.try_into()?,
            life: life::again(&life)?.try_into()?,
        };
        let mut direct = Self {
            flows: Arc::new(flows),
            headers: take(ebpf, map::HEADERS)?.try_into()?,
            told: take(ebpf, map::TOLD)?.try_into()?,
            life: life.try_into()?,
            host: take(ebpf, map::HOST)?.try_into()?,
            locals: take(ebpf, map::LOCALS)?.try_into()?,
            local_nets: take(ebpf, map::LOCAL_NETS)?.try_into()?,
        };
        // The one before may have been about to stop.
        direct.set_closing(false)?;
        direct.set_ending(false)?;
        if is_heir {
            direct.set_found()?;
        }
        Ok(direct)
    }

    /// From now on packets for applications enter by the veth.
    pub fn leave_lo(&mut self) -> Result<()> {
        Ok(self.life.set(Life::PastLo as u32, 1, 0)?)
    }

    /// Whether any application is heard by one device alone.
    pub fn set_bound(&mut self, is_any: bool) -> Result<()> {
        Ok(self.life.set(Life::Bound as u32, u64::from(is_any), 0)?)
    }

    /// What a handshake offers from now on, and the most connections that there may be.
    pub fn set_host(&mut self, host: Host) -> Result<()> {
        self.host.set(0, host, 0).context("what TCP offers")
    }

    /// The host's addresses, and whether each is a device's own. Nothing comes from elsewhere for a loopback one.
    pub fn set_locals(&mut self, addresses: &[(IpAddr, bool)]) -> Result<()> {
        let known: Vec<Addr> = self.locals.keys().collect::<Result<_, _>>()?;
        for (address, is_unicast) in addresses {
            let is_served = *is_unicast && !address.is_loopback();
            self.locals
                .insert(Addr::from(*address), u32::from(is_served), 0)
                .with_context(|| format!("too many addresses on this host at {address}"))?;
        }
        let is_there = |addr: &Addr| addresses.iter().any(|(ip, _)| Addr::from(*ip) == *addr);
        for addr in known.iter().filter(|addr| !is_there(addr)) {
            // Another one may have removed it.
            let _ = self.locals.remove(addr);
        }
        Ok(())
    }

    /// What is the host's by a route alone.
    pub fn set_local_nets(&mut self, nets: &BTreeSet<IpNet>) -> Result<()> {
        let key = |net: &IpNet| {
            // As the last bits of 128, whatever the family.
            let left_out = net.max_prefix_len() - net.prefix_len();
            Key::new(u128::BITS - u32::from(left_out), Addr::from(net.network()))
        };
        let wanted: Vec<_> = nets.iter().map(key).collect();
        for key in &wanted {
            self.local_nets
                .insert(key, 0, 0)
                .context("too many networks are this host's by a route")?;
        }
        let is_there = |known: &Key<Addr>| {
            let same = |key: &Key<Addr>| {
                key.prefix_len() == known.prefix_len() && key.data() == known.data()
            };
            wanted.iter().any(same)
        };
        let known: Vec<_> = self.local_nets.keys().collect::<Result<_, _>>()?;
        for key in known.iter().filter(|key| !is_there(key)) {
            self.local_nets
                .remove(key)
                .context("forgetting what was this host's by a route")?;
        }
        Ok(())
    }

    /// Whether new connections are refused.
    pub fn set_closing(&mut self, is_closing: bool) -> Result<()> {
        Ok(self
            .life
            .set(Life::Closing as u32, u64::from(is_closing), 0)?)
    }

    /// Whether the programs are about to go.
    pub fn set_ending(&mut self, is_ending: bool) -> Result<()> {
        Ok(self
            .life
            .set(Life::Ending as u32, u64::from(is_ending), 0)?)
    }

    /// Connections of a daemon before this one were found.
    pub fn set_found(&mut self) -> Result<()> {
        let now = u64::from(life::now(&self.life).max(1));
        Ok(self.life.set(Life::Found as u32, now, 0)?)
    }

    /// How many connections the daemon has.
    pub fn set_daemon_connections(&mut self, count: usize) -> Result<()> {
        Ok(self.life.set(Life::Daemon as u32, count as u64, 0)?)
    }

    /// What the sweep has told.
    pub fn hear(&mut self) -> Vec<Heard> {
        let now = life::now(&self.life);
        let mut heard = Vec::new();
        while let Some(item) = self.told.next() {
            if let Some(told) = read(&item) {
                heard.extend(events(&told, &self.headers, now));
            }
        }
        heard
    }

    pub fn flows(&self) -> Arc<Flows> {
        self.flows.clone()
    }

    /// Those that are open now.
    pub fn iter(&self) -> impl Iterator<Item = Flow> {
        let now = life::now(&self.life);
        // One that ends meanwhile may hide others from this listing: the kernel starts anew then.
        let entries = self.flows.down.iter().filter_map(Result::ok);
        entries
            .filter(|(_, down)| down.told & told::ENDED == 0)
            .map(move |(tuple, down)| flow(&tuple, &down, &self.headers, now))
    }
}

fn read(item: &[u8]) -> Option<Told> {
    (item.len() == size_of::<Told>()).then(|| {
        // SAFETY: as long as it has to be, and any bytes are a valid value; it may be unaligned.
        unsafe { item.as_ptr().cast::<Told>().read_unaligned() }
    })
}

/// A connection may have ended before it was said that it is open.
fn events(told: &Told, headers: &Headers, now: u32) -> impl Iterator<Item = Heard> + use<> {
    let flow = flow(&told.tuple, &told.down, headers, now);
    let is_new = told.down.told & told::OPEN == 0;
    let ended = match told.what {
        Told::OPENED => None,
        Told::CLOSED => Some(Heard::Closed(flow.clone())),
        _ => Some(Heard::Reset(flow.clone())),
    };
    is_new
        .then_some(Heard::Opened(flow))
        .into_iter()
        .chain(ended)
}

fn flow(tuple: &Tuple, down: &Down, headers: &Headers, now: u32) -> Flow {
    // The application's acknowledgment of FIN counts one.
    let is_kept = down.flags & flag::KEPT != 0;
    let kept = is_kept.then(|| headers.get(tuple, 0).ok()).flatten();
    let fin = u64::from(down.flags & flag::CLOSED != 0 || down.told & told::CLOSED != 0);
    Flow {
        service: down.service,
        balancer: down.rewrite.to.destination().into(),
        client: tuple.destination().into(),
        steered: tuple.source().into(),
        version: down.header,
        header: kept.map(|kept| bytes(&kept)),
        age: life::between(down.opened, now),
        up: down.up.saturating_sub(fin),
        down: down.down,
        is_told: down.told & told::OPEN != 0,
    }
}

type Headers = HashMap<MapData, Tuple, Kept>;

fn bytes(kept: &Kept) -> Vec<u8> {
    let bytes = kept.bytes.iter().flat_map(|word| word.to_ne_bytes());
    bytes
        .take(usize::try_from(kept.len).unwrap_or_default())
        .collect()
}

fn random() -> Result<[u64; 2]> {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    filled.context("a secret for cookies")?;
    let [a, b] = bytes.as_chunks().0 else {
        bail!("a secret for cookies");
    };
    Ok([u64::from_ne_bytes(*a), u64::from_ne_bytes(*b)])
}
