//! Whom sockets of balancers speak for, where only their first datagram says so.

use std::{net::SocketAddr, sync::Mutex};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use proxy_common::{
    cookie::Key,
    first::{First, Speaker},
    flow::Tuple,
    map,
    spoken::{self, Spoken},
};

use super::{
    datagrams::{link_of, lock},
    life,
    load::take,
};

pub struct Firsts {
    firsts: Mutex<HashMap<MapData, Speaker, First>>,
    spoken: Mutex<Array<MapData, spoken::Place>>,
    secret: Array<MapData, Key>,
    life: Array<MapData, u64>,
}

/// What a first datagram has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    For(SocketAddr),
    /// Its first piece has, and the others are waited for still.
    InPieces(SocketAddr),
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

    /// For whom the balancer's socket speaks, if a first datagram has said so.
    pub fn find(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        close_after: u32,
    ) -> Result<Option<Said>, Forgotten> {
        let speaker = speaker(balancer, received_at);
        let now = life::now(&self.life);
        let mut firsts = lock(&self.firsts);
        let Ok(first) = firsts.get(&speaker, 0) else {
            if !self.has_spoken(&speaker, now) {
                return Ok(None);
            }
            self.note_spoken(&speaker, now, close_after);
            return Err(Forgotten);
        };
        if first.is_over(now, close_after) || first.is_undecided() {
            return Ok(None);
        }
        if first.last < now {
            // Whatever comes of it: it is what is there already, but for the time.
            let _ = firsts.insert(speaker, first.heard(now), 0);
            self.note_spoken(&speaker, now, close_after);
        }
        let client = first.client().into();
        Ok(Some(match first.is_in_pieces(now) {
            true => Said::InPieces(client),
            false => Said::For(client),
        }))
    }

    /// The balancer's socket goes on speaking for a client who is answered.
    pub fn answered(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        client: SocketAddr,
        close_after: u32,
    ) {
        let speaker = speaker(balancer, received_at);
        let now = life::now(&self.life);
        let mut firsts = lock(&self.firsts);
        if let Ok(first) = firsts.get(&speaker, 0) {
            let is_his = first.client() == client.into() && !first.is_undecided();
            if !is_his || first.last >= now {
                return;
            }
            // Whatever comes of it: it is what is there already, but for the time.
            let _ = firsts.insert(speaker, first.heard(now), 0);
        } else if !self.has_spoken(&speaker, now) {
            // It speaks for itself.
            return;
        }
        self.note_spoken(&speaker, now, close_after);
    }

    pub fn note(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        client: SocketAddr,
        close_after: u32,
    ) -> Result<()> {
        let first = First::said(client.into(), life::now(&self.life));
        self.insert((balancer, received_at), first, close_after)
    }

    /// Has the next header say whom the socket speaks for, as this one couldn't be read.
    pub fn leave_undecided(
        &self,
        socket: (SocketAddr, SocketAddr),
        close_after: u32,
    ) -> Result<()> {
        let undecided = First::undecided(life::now(&self.life));
        self.insert(socket, undecided, close_after)
    }

    fn insert(
        &self,
        (balancer, received_at): (SocketAddr, SocketAddr),
        first: First,
        close_after: u32,
    ) -> Result<()> {
        let speaker = speaker(balancer, received_at);
        lock(&self.firsts)
            .insert(speaker, first, 0)
            .context("noting a balancer's socket")?;
        self.note_spoken(&speaker, first.last, close_after);
        Ok(())
    }

    fn note_spoken(&self, speaker: &Speaker, now: u32, close_after: u32) {
        let Ok(key) = self.secret.get(&0, 0) else {
            return;
        };
        let spoken = Spoken::new(&key, speaker);
        let mut all = lock(&self.spoken);
        if let Ok(mut place) = all.get(&spoken.place(), 0) {
            let (at, word) = spoken.noted(|at| place[at], now, now + close_after);
            place[at] = word;
            // Whatever comes of it: it is for when the other one is forgotten.
            let _ = all.set(spoken.place(), place, 0);
        }
    }

    fn has_spoken(&self, speaker: &Speaker, now: u32) -> bool {
        self.secret.get(&0, 0).is_ok_and(|key| {
            let spoken = Spoken::new(&key, speaker);
            let place = lock(&self.spoken).get(&spoken.place(), 0);
            place.is_ok_and(|place| spoken.is_in(|at| place[at], now))
        })
    }
}

/// By the link that the balancer's address is of, if it is.
fn speaker(balancer: SocketAddr, received_at: SocketAddr) -> Speaker {
    let link = link_of(balancer).unwrap_or(0);
    Speaker::new(&Tuple::new(balancer.into(), received_at.into()), link)
}
