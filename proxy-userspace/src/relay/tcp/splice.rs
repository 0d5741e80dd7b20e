//! Bulk data goes through a pipe: the kernel moves its pages from one socket to the other without
//! copying them to us and back.
//!
//! A pipe is lent to a half for as long as its data comes in large pieces. Where none can be had,
//! short of descriptors or of pipe pages, bytes are copied instead.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use rustix::{
    io::{Errno, ioctl_fionread},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream, task::coop::consume_budget};

use super::{
    direction::Direction,
    pump::{Next, reset},
};

/// What a pipe can hold: the most that an unprivileged process may ask for (fs.pipe-max-size).
const CAPACITY: usize = 1 << 20;
/// Idle pipes that a worker keeps. Each holds two descriptors and no pages.
const KEPT: usize = 32;
/// A piece below this is not bulk: copying it takes fewer system calls.
pub const SMALL: usize = 16 * 1024;
/// So many small pieces in a row end the lending.
const PATIENCE: u32 = 16;

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// An empty pipe.
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn take() -> Option<Self> {
        if let Some(idle) = IDLE.with_borrow_mut(Vec::pop) {
            return Some(idle);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // The default of 64 KiB works as well, with more system calls.
        let _ = fcntl_setpipe_size(&into, CAPACITY);
        Some(Self { out, into })
    }

    /// Only an empty one may go to another connection.
    fn give_back(self) {
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < KEPT {
                idle.push(self);
            }
        });
    }

    /// What the socket has. The pipe is empty, so "would block" speaks of the socket; none: it has what
    /// can't be spliced, which is an urgent byte.
    fn fill(&self, from: &TcpStream) -> io::Result<Option<usize>> {
        let splice = || {
            splice(
                from,
                None,
                &self.into,
                None,
                CAPACITY,
                SpliceFlags::NONBLOCK,
            )
        };
        from.try_io(Interest::READABLE, || match splice() {
            Err(Errno::AGAIN) if ioctl_fionread(from)? > 0 => Ok(None),
            spliced => Ok(Some(spliced?)),
        })
    }

    /// Up to `len` of what is in the pipe.
    fn drain(&self, to: &TcpStream, len: usize) -> io::Result<usize> {
        to.try_io(Interest::WRITABLE, || {
            Ok(splice(
                &self.out,
                None,
                to,
                None,
                len,
                SpliceFlags::NONBLOCK,
            )?)
        })
    }
}

/// Moves data through a pipe for as long as that pays, which is not at all where none can be had.
pub async fn relay(direction: &Direction<'_>) -> io::Result<Next> {
    let Some(pipe) = Pipe::take() else {
        return Ok(Next::Piece);
    };
    let mut small = 0;
    let next = loop {
        let piece = match fill(&pipe, direction.from).await? {
            None => break Next::Piece,
            Some(0) => break Next::End,
            Some(piece) => piece,
        };
        // Emptied before the source is waited for again: a slow starter would wait for ever.
        empty(&pipe, direction, piece).await?;
        small = if piece < SMALL { small + 1 } else { 0 };
        if small == PATIENCE {
            break Next::Piece;
        }
    };
    pipe.give_back();
    Ok(next)
}

async fn fill(pipe: &Pipe, from: &TcpStream) -> io::Result<Option<usize>> {
    loop {
        // A fast stream is always ready; others of this worker want their turn.
        consume_budget().await;
        from.readable().await?;
        match pipe.fill(from) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            filled => return filled,
        }
    }
}

async fn empty(pipe: &Pipe, direction: &Direction<'_>, mut left: usize) -> io::Result<()> {
    let to = direction.to;
    while left > 0 {
        match pipe.drain(to, left) {
            Ok(drained) => {
                left -= drained;
                direction.add(drained);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::select! {
                    biased;
                    writable = to.writable() => writable?,
                    error = reset(direction.from) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
