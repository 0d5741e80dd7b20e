//! Waiting for whichever of several trunks has something.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::trunk::Trunk;

pub struct Poll {
    epoll: OwnedFd,
    count: usize,
}

impl Poll {
    pub fn of(trunks: &[Trunk]) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (number, trunk) in trunks.iter().enumerate() {
            let token = EventData::new_u64(number as u64);
            epoll::add(&epoll, &trunk.socket, token, EventFlags::IN)?;
        }
        let count = trunks.len();
        Ok(Self { epoll, count })
    }

    /// Their places; none when nothing has come for so long.
    pub fn ready(&self, patience: Duration) -> io::Result<Vec<usize>> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut events = Vec::with_capacity(self.count);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let places = events.iter().map(|event| usize::try_from(event.data.u64()));
        places.collect::<Result<_, _>>().map_err(io::Error::other)
    }
}
