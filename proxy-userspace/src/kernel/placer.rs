//! Flows of datagrams that go by the daemon: the program `place` puts them into the table and changes them there, as
//! others do that run at the same time.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use proxy_common::{
    datagram::Flow,
    flow::Tuple,
    program,
    shares::{Place, Placed, Placing, RingSizes, Wanted},
};

use super::load::descriptor;
use crate::sys;

pub struct Placer {
    program: OwnedFd,
}

impl Placer {
    pub fn new(ebpf: &Ebpf) -> Result<Self> {
        let program = descriptor(ebpf, program::PLACE)?.try_clone_to_owned()?;
        Ok(Self { program })
    }

    /// What became of the flow whose replies are these, and what it is like then.
    pub fn place(
        &self,
        wanted: Wanted,
        reply: Tuple,
        flow: Flow,
        sizes: RingSizes,
    ) -> Result<(Placed, Flow)> {
        let mut placing = Placing {
            header: [0; 4],
            flow,
            place: Place {
                reply,
                sizes,
                ..Place::default()
            },
            wanted: wanted as u32,
            placed: Placed::Failed as u32,
        };
        // SAFETY: made of integers that fill it, as the tests of the layout say.
        unsafe { sys::bpf::run_on(self.program.as_fd(), &mut placing) }
            .context("running program place")?;
        match Placed::from_number(placing.placed) {
            None | Some(Placed::Failed) => bail!("no place for a flow of datagrams"),
            Some(placed) => Ok((placed, placing.flow)),
        }
    }
}
