//! Connections that are handed over, as the programs see them.

use std::{
    collections::HashMap as Table,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, RingBuf},
};
use proxy_common::{
    handover::{Ended, Flow, Handed, Way},
    map,
};
use tokio::sync::oneshot;

use super::load::take;
use crate::{
    relay::{Direction, Legs, Over, Progress, Shortcut},
    sys::{self, TcpState},
};

/// The maps, and who waits for which connection's end.
pub struct Handover {
    maps: Mutex<Maps>,
    waiting: Mutex<Table<u32, Waiting>>,
    next: AtomicU32,
    mark: u32,
}

struct Maps {
    flows: HashMap<MapData, Flow, u32>,
    handed: HashMap<MapData, u32, Handed>,
    owed: HashMap<MapData, u32, u32>,
}

struct Waiting {
    /// FINs that the other side has acknowledged.
    up: bool,
    down: bool,
    over: oneshot::Sender<Over>,
}

impl Handover {
    /// Hears of ends on the current runtime.
    pub(super) fn new(ebpf: &mut Ebpf, device: u32) -> Result<Arc<Self>> {
        let maps = Maps {
            flows: take(ebpf, map::FLOWS)?.try_into()?,
            handed: take(ebpf, map::HANDED)?.try_into()?,
            owed: take(ebpf, map::OWED)?.try_into()?,
        };
        let ends: RingBuf<MapData> = take(ebpf, map::ENDS)?.try_into()?;
        let handover = Arc::new(Self {
            maps: Mutex::new(maps),
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
            mark: proxy_common::mark(device),
        });
        listen(ends, handover.clone())?;
        Ok(handover)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Table<u32, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, Ended { id, how }: Ended) {
        let mut waiting = self.waiting();
        let Some(one) = waiting.get_mut(&id) else {
            return;
        };
        let over = match how {
            Ended::UP => {
                one.up = true;
                one.down.then_some(Over::Closed)
            }
            Ended::DOWN => {
                one.down = true;
                one.up.then_some(Over::Closed)
            }
            _ => Some(Over::Reset),
        };
        if let Some(over) = over
            && let Some(one) = waiting.remove(&id)
        {
            // The connection may have ended by itself.
            let _ = one.over.send(over);
        }
    }
}

impl Shortcut for Handover {
    fn open(&self, legs: &Legs) -> io::Result<(u32, oneshot::Receiver<Over>)> {
        let id = self.next.fetch_add(1, Relaxed).max(1);
        let handed = handed(legs);
        let (over, end) = oneshot::channel();
        let (up, down) = (false, false);
        self.waiting().insert(id, Waiting { up, down, over });
        let flows = flows(&handed);
        let mut maps = self.maps();
        let opened = (|| {
            maps.handed.insert(id, handed, 0)?;
            maps.owed.insert(id, 0, 0)?;
            // From here on packets take the shortcut.
            flows
                .iter()
                .try_for_each(|flow| maps.flows.insert(flow, id, 0))
        })();
        drop(maps);
        if let Err(error) = opened {
            self.close(id, legs);
            return Err(io_error(error));
        }
        Ok((id, end))
    }

    fn settled(&self, id: u32) -> io::Result<()> {
        self.maps().owed.remove(&id).map_err(io_error)
    }

    fn ended(&self, id: u32, direction: Direction) {
        let how = match direction {
            Direction::Up => Ended::UP,
            Direction::Down => Ended::DOWN,
        };
        self.hear(Ended { id, how });
    }

    fn progress(&self, id: u32) -> io::Result<Progress> {
        let Handed { up, down, .. } = self.maps().handed.get(&id, 0).map_err(io_error)?;
        // Each way's acknowledgments count the other way's bytes.
        let bytes = |way: &Way| way.acked.saturating_sub(way.fin_acked.into());
        Ok(Progress {
            up: bytes(&down),
            down: bytes(&up),
            heard: up.seen,
            over: over(&up, &down),
            up_ended: down.fin_acked != 0,
            down_ended: up.fin_acked != 0,
        })
    }

    /// The flows may be a later connection's by now.
    fn close(&self, id: u32, legs: &Legs) {
        self.waiting().remove(&id);
        let mut maps = self.maps();
        for flow in flows(&handed(legs)) {
            if maps.flows.get(&flow, 0).is_ok_and(|owner| owner == id) {
                let _ = maps.flows.remove(&flow);
            }
        }
        let _ = maps.handed.remove(&id);
        let _ = maps.owed.remove(&id);
    }

    fn has_ended(&self, client: SocketAddr, steered: SocketAddr) -> bool {
        let flow = Flow {
            source: steered.into(),
            destination: client.into(),
        };
        let maps = self.maps();
        let handed = maps.flows.get(&flow, 0);
        let handed = handed.and_then(|id| maps.handed.get(&id, 0));
        handed.is_ok_and(|Handed { up, down, .. }| over(&up, &down).is_some())
    }

    fn mark(&self) -> u32 {
        self.mark
    }
}

fn over(up: &Way, down: &Way) -> Option<Over> {
    if up.reset | down.reset != 0 {
        return Some(Over::Reset);
    }
    (up.fin_acked & down.fin_acked != 0).then_some(Over::Closed)
}

fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}

/// As the balancer's packets and the application's name the connection.
fn flows(handed: &Handed) -> [Flow; 2] {
    [handed.to_balancer.reversed(), handed.to_app.reversed()]
}

fn handed(legs: &Legs) -> Handed {
    let Legs {
        downstream,
        upstream,
        in_hand,
        ..
    } = legs;
    let flow = |from: SocketAddr, to: SocketAddr| Flow {
        source: from.into(),
        destination: to.into(),
    };
    Handed {
        to_app: flow(legs.client, legs.steered),
        to_balancer: flow(legs.service, legs.balancer),
        up: way(downstream, upstream, in_hand.up),
        down: way(upstream, downstream, in_hand.down),
    }
}

/// The way from what `from` receives to what `to` sends.
fn way(from: &TcpState, to: &TcpState, in_hand: u32) -> Way {
    let taken = from.received.wrapping_sub(from.unread);
    Way {
        seq: to.sent.wrapping_add(in_hand).wrapping_sub(taken),
        clock: to.clock,
        scale: from.peer_scale,
        scale_expected: to.scale,
        end: from.received,
        ack: from.sent,
        edge: from.sent.wrapping_add(from.room),
        ..Way::default()
    }
}

fn listen(ends: RingBuf<MapData>, handover: Arc<Handover>) -> Result<()> {
    let mut ends = sys::readable(ends).context("watching for the ends of connections")?;
    tokio::spawn(async move {
        while let Ok(mut guard) = ends.readable_mut().await {
            while let Some(end) = guard.get_inner_mut().next() {
                if let Some(([id, how], [])) = end.as_chunks().0.split_first_chunk() {
                    let [id, how] = [id, how].map(|bytes| u32::from_ne_bytes(*bytes));
                    handover.hear(Ended { id, how });
                }
            }
            guard.clear_ready();
        }
    });
    Ok(())
}
