//! Messages with descriptors, between two processes of one user.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair, sockopt::socket_peercred,
    },
    process::{Pid, geteuid},
};
use socket2::SockRef;
use tokio::io::{Interest, unix::AsyncFd};

use super::{PATIENCE, message::Message};
use crate::sys;

/// SCM_MAX_FD of the kernel.
const MOST_FDS: usize = 253;
/// More than the labels of so many descriptors are.
const LONGEST: usize = 128 * 1024;

pub struct Channel {
    socket: AsyncFd<OwnedFd>,
    /// The other side, as it was when it connected.
    pub peer: Pid,
}

impl Channel {
    /// Both ends of a new one. The second isn't registered with this process's runtime.
    pub fn pair() -> Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .context("making a pair of sockets")?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Refuses whoever is of another user.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        let peer = socket_peercred(&socket).context("asking who the other side is")?;
        let (own, other) = (geteuid(), peer.uid);
        ensure!(
            own == other,
            "the other side is of user {other:?}, not {own:?}"
        );
        // Neither of them may keep the other waiting for ever.
        SockRef::from(&socket).set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket: sys::readable(socket)?,
            peer: peer.pid,
        })
    }

    #[cfg(test)]
    pub fn cut(&self) -> Result<()> {
        Ok(SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both)?)
    }

    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            ensure!(fits, "too many descriptors for one message");
        }
        let text = [IoSlice::new(&text)];
        sendmsg(&self.socket, &text, &mut control, SendFlags::NOSIGNAL)
            .context("sending to the other side")?;
        Ok(())
    }

    /// The next message; none when the other side has ended.
    pub async fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let read = |socket: &OwnedFd| receive(socket.as_fd());
        let received = self.socket.async_io(Interest::READABLE, read).await;
        let (text, fds) = match received {
            // It died with something of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            received => received.context("hearing from the other side")?,
        };
        if text.is_empty() {
            return Ok(None);
        }
        let message = serde_json::from_slice(&text)
            .context("the other side is of a version that isn't understood")?;
        Ok(Some((message, fds)))
    }

    /// The next one within a time in which it can be expected.
    pub async fn answer(&self) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        match tokio::time::timeout(PATIENCE, self.receive()).await {
            Ok(received) => received,
            Err(_) => bail!("the other side doesn't answer"),
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        flags,
    )?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.flatten().collect();
    // Fewer descriptors than were sent are noticed by their labels.
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("a message is too long"));
    }
    text.truncate(got.bytes);
    Ok((text, fds))
}
