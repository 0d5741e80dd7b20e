//! New flows of datagrams that the daemon has: the program `place` puts them into the table, as others do.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use proxy_common::{
    datagram::Flow,
    flow::Tuple,
    map, program,
    shares::{Limits, Place, Placed, Placing},
};

use super::load::{descriptor, take};
use crate::sys;

pub struct Placer {
    program: OwnedFd,
    placing: Array<MapData, Placing>,
}

impl Placer {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            program: descriptor(ebpf, program::PLACE)?.try_clone_to_owned()?,
            placing: take(ebpf, map::PLACING)?.try_into()?,
        })
    }

    /// False if there are as many flows as there may be.
    pub fn place(&mut self, reply: &Tuple, flow: &Flow, limits: Limits) -> Result<bool> {
        let placing = Placing {
            flow: *flow,
            place: Place {
                reply: *reply,
                limits,
                ..Place::default()
            },
            placed: Placed::Failed as u64,
        };
        self.placing.set(0, placing, 0)?;
        sys::bpf::run(self.program.as_fd()).context("running program place")?;
        let placed = self.placing.get(&0, 0)?.placed;
        ensure!(
            placed != Placed::Failed as u64,
            "no place for a flow of datagrams"
        );
        Ok(placed == Placed::InTable as u64)
    }
}
