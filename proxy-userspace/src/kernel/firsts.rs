//! Whom sockets of balancers speak for, where only their first datagram says so.

use std::{net::SocketAddr, sync::Mutex};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use proxy_common::{Endpoint, cookie::Key, datagram::First, flow::Tuple, map, spoken::Spoken};

use super::{datagrams::lock, life, load::take};

pub struct Firsts {
    firsts: Mutex<HashMap<MapData, Tuple, First>>,
    spoken: Mutex<Array<MapData, u64>>,
    secret: Array<MapData, Key>,
    life: Array<MapData, u64>,
}

/// No client at all means that the daemon has yet to tell, and a header may name `[::]:0`: nobody either way.
fn named(client: SocketAddr) -> Endpoint {
    match Endpoint::from(client) {
        none if none == Endpoint::default() => SocketAddr::from(([0; 4], 0)).into(),
        one => one,
    }
}

/// For others' sake, and not for having been silent.
#[derive(Clone, Copy, Debug)]
pub struct Forgotten;

impl Firsts {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let again = |name| life::again(ebpf.map(name).context("a map that all have")?);
        let (secret, life) = (again(map::SECRET)?, again(map::LIFE)?);
        Ok(Self {
            firsts: Mutex::new(take(ebpf, map::FIRSTS)?.try_into()?),
            spoken: Mutex::new(take(ebpf, map::SPOKEN)?.try_into()?),
            secret: secret.try_into()?,
            life: life.try_into()?,
        })
    }

    /// The client, if a first datagram has said so.
    pub fn find(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        close_after: u32,
    ) -> Result<Option<SocketAddr>, Forgotten> {
        let datagram = Tuple::new(balancer.into(), received_at.into());
        let now = life::now(&self.life);
        let mut firsts = lock(&self.firsts);
        let Ok(mut first) = firsts.get(&datagram, 0) else {
            if !self.has_spoken(&datagram, now, close_after) {
                return Ok(None);
            }
            self.note_spoken(&datagram, now);
            return Err(Forgotten);
        };
        if first.is_over(now, close_after) || first.is_undecided() {
            return Ok(None);
        }
        if first.last < now {
            first.last = now;
            // Whatever comes of it: it is what is there already, but for the time.
            let _ = firsts.insert(datagram, first, 0);
            self.note_spoken(&datagram, now);
        }
        Ok(Some(first.client.into()))
    }

    /// The balancer's socket goes on speaking for a client who is answered.
    pub fn answered(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        client: SocketAddr,
        close_after: u32,
    ) {
        let datagram = Tuple::new(balancer.into(), received_at.into());
        let now = life::now(&self.life);
        let mut firsts = lock(&self.firsts);
        if let Ok(mut first) = firsts.get(&datagram, 0) {
            if first.client != client.into() || first.last >= now {
                return;
            }
            first.last = now;
            // Whatever comes of it: it is what is there already, but for the time.
            let _ = firsts.insert(datagram, first, 0);
        } else if !self.has_spoken(&datagram, now, close_after) {
            // It speaks for itself.
            return;
        }
        self.note_spoken(&datagram, now);
    }

    pub fn note(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        client: SocketAddr,
    ) -> Result<()> {
        let first = First {
            client: named(client),
            last: life::now(&self.life),
        };
        let datagram = Tuple::new(balancer.into(), received_at.into());
        lock(&self.firsts)
            .insert(datagram, first, 0)
            .context("noting a balancer's socket")?;
        self.note_spoken(&datagram, first.last);
        Ok(())
    }

    fn note_spoken(&self, datagram: &Tuple, now: u32) {
        if let Ok(key) = self.secret.get(&0, 0) {
            let spoken = Spoken::new(&key, datagram);
            // Whatever comes of it: it is for when the other one is forgotten.
            let _ = lock(&self.spoken).set(spoken.place(), spoken.word(now), 0);
        }
    }

    fn has_spoken(&self, datagram: &Tuple, now: u32, close_after: u32) -> bool {
        self.secret.get(&0, 0).is_ok_and(|key| {
            let spoken = Spoken::new(&key, datagram);
            let word = lock(&self.spoken).get(&spoken.place(), 0);
            word.is_ok_and(|word| spoken.is_in(word, now, close_after))
        })
    }
}
