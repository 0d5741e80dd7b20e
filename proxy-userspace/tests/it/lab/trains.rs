//! Datagrams as the kernel carries many of one size at once: sent by UDP_SEGMENT, received by UDP_GRO.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::UdpGroSegment;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};

use super::raw;

/// Of one train, in datagrams (UDP_MAX_SEGMENTS of old kernels) and in bytes (an IP packet, with room for
/// its headers).
const LONGEST: usize = 64;
const LARGEST: usize = 65_000;
/// Of the lab's links. What is larger leaves in pieces, one by one.
const MTU: usize = 1500;
/// A sender with a window of a few hundred packets doesn't make the kernel throw any away.
const BUFFER: i32 = 8 << 20;

/// What came by one call, all of `size` bytes, but the last one may be shorter.
pub struct Train {
    pub from: SocketAddr,
    bytes: Vec<u8>,
    size: usize,
}

impl Train {
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let empty = self.bytes.is_empty().then_some(&self.bytes[..]);
        empty.into_iter().chain(self.bytes.chunks(self.size))
    }
}

/// From now on [`receive`] may get several at once.
pub fn enable(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, UdpGroSegment, &true).context("UDP_GRO")?;
    make_room(socket)
}

/// For datagrams that nobody has read yet.
pub fn make_room(socket: &UdpSocket) -> Result<()> {
    for name in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        raw::set(socket, libc::SOL_SOCKET, name, BUFFER).context("buffers")?;
    }
    Ok(())
}

pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Train> {
    let mut space = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let sizes = got.cmsgs()?.map(|message| match message {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).unwrap_or_default(),
        _ => 0,
    });
    let size = sizes.max().unwrap_or_default();
    let from = got.address.as_ref().and_then(address);
    let length = got.bytes;
    Ok(Train {
        from: from.ok_or_else(|| io::Error::other("a datagram of nobody's"))?,
        bytes: buffer[..length].to_vec(),
        // One alone has no size of its own.
        size: if size == 0 { length.max(1) } else { size },
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|at| SocketAddr::V4((*at).into()));
    v4.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|at| SocketAddr::V6((*at).into()))
    })
}

/// In as few trains as they make, to `to` or to where the socket is connected.
pub fn send(socket: &UdpSocket, to: Option<SocketAddr>, datagrams: &[Vec<u8>]) -> io::Result<()> {
    let headers = if socket.local_addr()?.is_ipv4() {
        28
    } else {
        48
    };
    let mut rest = datagrams;
    while let Some(first) = rest.first() {
        let size = first.len();
        let most = match size {
            0 => 1,
            _ if headers + size > MTU => 1,
            _ => LONGEST.min(LARGEST / size),
        };
        let same = rest.iter().take(most).take_while(|one| one.len() == size);
        let mut count = same.count();
        // A shorter one ends the train.
        let is_shorter = |one: &Vec<u8>| (1..size).contains(&one.len());
        count += usize::from(count < most && rest.get(count).is_some_and(is_shorter));
        let (train, later) = rest.split_at(count);
        send_train(socket, to, train)?;
        rest = later;
    }
    Ok(())
}

fn send_train(socket: &UdpSocket, to: Option<SocketAddr>, train: &[Vec<u8>]) -> io::Result<()> {
    let parts: Vec<_> = train.iter().map(|one| IoSlice::new(one)).collect();
    let size = u16::try_from(train[0].len()).map_err(io::Error::other)?;
    let segments = [ControlMessage::UdpGsoSegments(&size)];
    let messages = if train.len() > 1 { &segments[..] } else { &[] };
    let to = to.map(SockaddrStorage::from);
    let flags = MsgFlags::empty();
    sendmsg(socket.as_raw_fd(), &parts, messages, flags, to.as_ref())?;
    Ok(())
}
