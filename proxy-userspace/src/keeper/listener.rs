//! Where the next daemon finds the keeper: a socket of the daemon's user alone.

use std::{
    fs::{self, Permissions},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
        socket_with,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use super::channel::Channel;
use crate::sys;

/// Its file goes when it is dropped.
pub struct Listener {
    /// Unless it is another keeper's by now.
    path: Option<PathBuf>,
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    /// In the place of a dead keeper's. A living one's daemon would have the instance's lock.
    pub fn open(path: &Path) -> Result<Self> {
        const BACKLOG: i32 = 4;
        let _ = fs::remove_file(path);
        let open = || {
            let socket = socket(SocketFlags::NONBLOCK)?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            listen(&socket, BACKLOG)?;
            sys::readable(socket)
        };
        Ok(Self {
            socket: open().with_context(|| format!("listening at {}", path.display()))?,
            path: Some(path.to_owned()),
        })
    }

    /// Another keeper listens there.
    pub fn leave(&mut self) {
        self.path = None;
    }

    pub async fn accept(&self) -> Result<Channel> {
        let accept = |socket: &OwnedFd| Ok(accept_with(socket, SocketFlags::CLOEXEC)?);
        Channel::new(self.socket.async_io(Interest::READABLE, accept).await?)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// None if nobody listens there.
pub fn dial(path: &Path) -> Result<Option<Channel>> {
    let dial = || -> io::Result<_> {
        let socket = socket(SocketFlags::empty())?;
        match connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let socket =
        dial().with_context(|| format!("connecting to the keeper at {}", path.display()))?;
    socket.map(Channel::new).transpose()
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}
