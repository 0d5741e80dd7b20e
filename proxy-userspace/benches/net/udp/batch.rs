//! Several datagrams by one system call, on both sides of all contenders: a bench that spends more on
//! its own calls than a contender does on its work would hide what that work is.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Datagrams of one call.
const BATCH: usize = 32;
/// Longer than any that is sent here, with its header.
const ROOM: usize = 2048;

/// What came by one call. Its buffers stay with the thread that has made it.
pub struct Batch {
    headers: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; ROOM]>,
    /// How long each is, and where it came from.
    came: Vec<(usize, Option<SockaddrIn>)>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; ROOM]; BATCH],
            came: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what is there, and says whether there may be more.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.came.clear();
        let slices = self.buffers.iter_mut();
        let mut slices: Vec<_> = slices.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        match recvmmsg(fd, &mut self.headers, &mut slices, flags, None) {
            Ok(all) => self.came.extend(all.map(|one| (one.bytes, one.address))),
            // Nothing, or that nobody listens yet, which whoever waits for an answer finds out.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.came.len() == BATCH)
    }

    /// Each with its sender.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], Option<SockaddrIn>)> {
        let came = self.buffers.iter().zip(&self.came);
        came.map(|(buffer, &(len, from))| (&buffer[..len], from))
    }
}

/// Each to where it says, or to whom the socket is connected. What can't be sent is lost, as it may be
/// anywhere on the way.
pub fn send<'a>(
    socket: &UdpSocket,
    datagrams: impl Iterator<Item = (&'a [u8], Option<SockaddrIn>)>,
) {
    let (slices, to): (Vec<_>, Vec<_>) = datagrams
        .map(|(datagram, to)| ([IoSlice::new(datagram)], to))
        .unzip();
    let mut done = 0;
    while done < slices.len() {
        let (rest, to) = (&slices[done..], &to[done..]);
        let mut headers = MultiHeaders::preallocate(rest.len(), None);
        let (fd, none) = (socket.as_raw_fd(), MsgFlags::empty());
        done += match sendmmsg(fd, &mut headers, rest, to, [], none) {
            Ok(sent) => sent.count(),
            Err(_) => 1,
        };
    }
}
