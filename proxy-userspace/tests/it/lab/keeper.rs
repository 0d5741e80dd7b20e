//! Between a keeper and who wants to take over: hands all on, descriptors included, and changes what is
//! said.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind,
    connect, listen, recvmsg, sendmsg, socket_with,
};

use super::{Lab, RUN};

const MOST_FDS: usize = 253;
const LONGEST: usize = 128 * 1024;
/// Said in the last one of a keeper's messages.
const LAST: &str = "\"layout\":";

/// In a keeper's place until it is asked to go.
pub struct Between {
    place: PathBuf,
    keeper: PathBuf,
    relaying: JoinHandle<Result<()>>,
}

impl Between {
    /// For one taker, with `change` applied to each message of the keeper's.
    pub fn place(lab: &Lab, change: fn(String) -> String) -> Result<Self> {
        let place = PathBuf::from(format!("{RUN}/{}.keeper.sock", lab.instance()));
        let keeper = PathBuf::from(format!("{RUN}/{}.keeper.aside", lab.instance()));
        fs::rename(&place, &keeper).context("there is a keeper")?;
        let listener = socket()?;
        bind(&listener, &SocketAddrUnix::new(&place)?)?;
        listen(&listener, 1)?;
        let to = keeper.clone();
        let relaying = thread::spawn(move || {
            let taker = accept(&listener)?;
            let keeper = socket()?;
            connect(&keeper, &SocketAddrUnix::new(&to)?)?;
            // A taker says one thing, and then listens.
            pass(&taker, &keeper, |said| said)?;
            while !pass(&keeper, &taker, change)?.contains(LAST) {}
            Ok(())
        });
        Ok(Self {
            place,
            keeper,
            relaying,
        })
    }

    /// Fails if anything went wrong; the keeper is in its place again.
    pub fn leave(self) -> Result<()> {
        fs::rename(&self.keeper, &self.place)?;
        self.relaying.join().expect("no panic on the way")
    }
}

fn socket() -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// One message, and what was said.
fn pass(from: &OwnedFd, to: &OwnedFd, change: impl Fn(String) -> String) -> Result<String> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut text)];
    let got = recvmsg(from, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = fds.flatten().collect();
    text.truncate(got.bytes);
    ensure!(!text.is_empty(), "one side has ended");
    let text = change(String::from_utf8(text)?);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let message = [IoSlice::new(text.as_bytes())];
    sendmsg(to, &message, &mut control, SendFlags::NOSIGNAL)?;
    Ok(text)
}
