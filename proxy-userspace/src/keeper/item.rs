//! A descriptor under a name, whoever has it just now.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use rustix::io::fcntl_dupfd_cloexec;
use serde::{Deserialize, Serialize};

use super::kind::Kind;

#[derive(Debug)]
pub struct Item {
    pub kind: Kind,
    pub fd: OwnedFd,
}

pub type Items = BTreeMap<String, Item>;

/// What goes along with a descriptor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Label {
    pub name: String,
    pub kind: Kind,
}

/// Above all links. When both processes die at once, the kernel closes the highest descriptors first:
/// the steer addresses have to be gone before the programs are, or the applications' sockets send to
/// the real clients.
const ABOVE_LINKS: i32 = 900;

impl Item {
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let kind = Kind::of(&fd)?;
        Ok(Self { kind, fd })
    }

    /// A duplicate.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd();
        let kind = Kind::of(fd)?;
        let fd = duplicate(fd, &kind).context("duplicating a descriptor")?;
        Ok(Self { kind, fd })
    }

    /// One that came in a message, if it is what its label says.
    pub fn labelled(fd: OwnedFd, label: &Label) -> Result<Self> {
        let item = match &label.kind {
            Kind::Tun(_) => Self::of(fd)?,
            _ => Self::new(fd)?,
        };
        let (name, kind) = (&label.name, &label.kind);
        ensure!(
            item.kind == *kind,
            "{name} is {:?}, but should be {kind:?}",
            item.kind
        );
        Ok(item)
    }
}

fn duplicate(fd: BorrowedFd<'_>, kind: &Kind) -> rustix::io::Result<OwnedFd> {
    if let Kind::Tun(_) = kind {
        // With fewer files than that allowed, it is the next free one.
        if let Ok(high) = fcntl_dupfd_cloexec(fd, ABOVE_LINKS) {
            return Ok(high);
        }
    }
    fcntl_dupfd_cloexec(fd, 0)
}

/// Pairs what came in a message, and looks whether it is what it says.
pub fn unpack(labels: Vec<Label>, fds: Vec<OwnedFd>) -> Result<Items> {
    pair(labels, fds, Item::labelled)
}

/// The same for the keeper, which uses nothing of it. What a link is costs the kernel's lock of all
/// devices, for which one waits seconds on a host that is taking namespaces down.
pub fn store(labels: Vec<Label>, fds: Vec<OwnedFd>) -> Result<Items> {
    pair(labels, fds, |fd, label| match label.kind {
        Kind::Tun(_) => Item::of(fd),
        _ => Ok(Item {
            kind: label.kind.clone(),
            fd,
        }),
    })
}

fn pair(
    labels: Vec<Label>,
    fds: Vec<OwnedFd>,
    item: impl Fn(OwnedFd, &Label) -> Result<Item>,
) -> Result<Items> {
    let (wanted, came) = (labels.len(), fds.len());
    ensure!(
        wanted == came,
        "{came} descriptors came where {wanted} should: is the limit of open files reached?"
    );
    let pairs = labels.into_iter().zip(fds);
    pairs
        .map(|(label, fd)| Ok((label.name.clone(), item(fd, &label)?)))
        .collect()
}

/// In messages that the kernel takes.
pub fn pack(items: &Items) -> Vec<(Vec<Label>, Vec<BorrowedFd<'_>>)> {
    /// SCM_MAX_FD is 253.
    const MOST: usize = 128;
    let items: Vec<_> = items.iter().collect();
    let pack = |chunk: &[(&String, &'_ Item)]| {
        let labels = chunk.iter().map(|(name, item)| label(name, item));
        labels.collect()
    };
    let chunks = items.chunks(MOST);
    chunks
        .map(|chunk| {
            (
                pack(chunk),
                chunk.iter().map(|(_, item)| item.fd.as_fd()).collect(),
            )
        })
        .collect()
}

fn label(name: &str, item: &Item) -> Label {
    Label {
        name: name.to_owned(),
        kind: item.kind.clone(),
    }
}
