//! A descriptor under a name, whoever has it just now.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
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

impl Item {
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let kind = Kind::of(&fd)?;
        Ok(Self { kind, fd })
    }

    /// A duplicate. That of the steer addresses' device is above all that is open.
    ///
    /// When daemon and keeper die at once, the kernel closes their highest descriptors first: the steer
    /// addresses have to be gone before the programs are, or the applications' sockets send to the real
    /// clients. What the daemon opens later on are connections' sockets, whose resets need the addresses.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd();
        let kind = Kind::of(fd)?;
        let lowest = match &kind {
            Kind::Tun(_) => highest_open().context("reading /proc/self/fd")?,
            _ => 0,
        };
        let fd = fcntl_dupfd_cloexec(fd, lowest).context("duplicating a descriptor")?;
        Ok(Self { kind, fd })
    }

    /// One that came in a message, if it is what its label says.
    pub fn labelled(fd: OwnedFd, label: &Label) -> Result<Self> {
        let item = Self::new(fd)?;
        let (name, kind) = (&label.name, &label.kind);
        ensure!(
            item.kind == *kind,
            "{name} is {:?}, but should be {kind:?}",
            item.kind
        );
        Ok(item)
    }
}

fn highest_open() -> io::Result<RawFd> {
    let open = fs::read_dir("/proc/self/fd")?;
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.max().unwrap_or_default())
}

/// Has the steer addresses' device above all links again, when there are more of them.
pub fn lift(items: &mut Items) {
    let links = items
        .values()
        .filter(|item| matches!(item.kind, Kind::Link(_)));
    let Some(highest) = links.map(|item| item.fd.as_raw_fd()).max() else {
        return;
    };
    for item in items.values_mut() {
        if matches!(item.kind, Kind::Tun(_)) && item.fd.as_raw_fd() < highest {
            match fcntl_dupfd_cloexec(&item.fd, highest) {
                Ok(fd) => item.fd = fd,
                Err(error) => tracing::debug!("the steer addresses would go last: {error}"),
            }
        }
    }
}

/// Pairs what came in a message, and looks whether it is what it says.
pub fn unpack(labels: Vec<Label>, fds: Vec<OwnedFd>) -> Result<Items> {
    pair(labels, fds, Item::labelled)
}

/// The same for the keeper, which uses nothing of it. What a link is costs the kernel's lock of all
/// devices, for which one waits seconds on a host that is taking namespaces down.
pub fn store(labels: Vec<Label>, fds: Vec<OwnedFd>) -> Result<Items> {
    pair(labels, fds, |fd, label| {
        let kind = label.kind.clone();
        Ok(Item { kind, fd })
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
