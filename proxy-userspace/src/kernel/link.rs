//! Links as descriptors: made here or by a daemon before this one, and swapped to another program
//! between two packets.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use crate::sys::bpf;

// Of enum bpf_attach_type.
const CGROUP_INGRESS: u32 = 0;
const CGROUP_EGRESS: u32 = 1;
const SOCK_OPS: u32 = 3;
const CONNECT4: u32 = 10;
const CONNECT6: u32 = 11;
const SENDMSG4: u32 = 14;
const SENDMSG6: u32 = 15;
const SK_LOOKUP: u32 = 36;
const XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// BPF_F_BEFORE: without saying whom, before all.
const FIRST: u32 = 1 << 3;

/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// Who runs a program of XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// The driver, before there is a packet for the stack.
    Native,
    /// The stack, for drivers that can't.
    Generic,
}

impl XdpMode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Where a program can be.
#[derive(Clone, Copy, Debug)]
pub enum Hook<'a> {
    /// A device, by its index. Ours is the first program: others may end the chain.
    TcxIngress(u32),
    TcxEgress(u32),
    Xdp(u32, XdpMode),
    /// A network namespace.
    SkLookup(BorrowedFd<'a>),
    /// A cgroup's sockets.
    Cgroup(CgroupHook, BorrowedFd<'a>),
}

/// What of a cgroup's sockets.
#[derive(Clone, Copy, Debug)]
pub enum CgroupHook {
    SockOps,
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
    Egress,
    Ingress,
}

/// A link's place, in the kernel's words to its holder. Which program is there is another matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPlace {
    pub link_type: String,
    /// The device's index, which is 0 once it is gone, or the number of the namespace or cgroup.
    pub target: u64,
    pub attach_type: u32,
}

impl Hook<'_> {
    /// Where a link that is made for it is.
    pub fn place(&self) -> io::Result<LinkPlace> {
        let inode = |fd: &BorrowedFd<'_>| Ok::<_, io::Error>(fstat(fd)?.st_ino);
        let (link_type, target) = match self {
            Self::TcxIngress(device) | Self::TcxEgress(device) => ("tcx", (*device).into()),
            // Its holder isn't told more.
            Self::Xdp(device, _) => {
                return Ok(LinkPlace {
                    link_type: "xdp".into(),
                    target: (*device).into(),
                    attach_type: 0,
                });
            }
            Self::SkLookup(netns) => ("netns", inode(netns)?),
            // Its number is its id.
            Self::Cgroup(_, cgroup) => ("cgroup", inode(cgroup)?),
        };
        Ok(LinkPlace {
            link_type: link_type.into(),
            target,
            attach_type: self.attach_type(),
        })
    }

    fn attach_type(&self) -> u32 {
        match self {
            Self::TcxIngress(_) => TCX_INGRESS,
            Self::TcxEgress(_) => TCX_EGRESS,
            Self::Xdp(..) => XDP,
            Self::SkLookup(_) => SK_LOOKUP,
            Self::Cgroup(hook, _) => match hook {
                CgroupHook::SockOps => SOCK_OPS,
                CgroupHook::Connect4 => CONNECT4,
                CgroupHook::Connect6 => CONNECT6,
                CgroupHook::Sendmsg4 => SENDMSG4,
                CgroupHook::Sendmsg6 => SENDMSG6,
                CgroupHook::Egress => CGROUP_EGRESS,
                CgroupHook::Ingress => CGROUP_INGRESS,
            },
        }
    }
}

/// Holds its program where it is. Gone with its last duplicate in any process.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    pub fn create(program: impl AsFd, hook: Hook<'_>) -> io::Result<Self> {
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
        let (target, flags) = match hook {
            Hook::TcxIngress(device) | Hook::TcxEgress(device) => (device, FIRST),
            Hook::Xdp(device, XdpMode::Native) => (device, NATIVE),
            Hook::Xdp(device, XdpMode::Generic) => (device, GENERIC),
            Hook::SkLookup(fd) | Hook::Cgroup(_, fd) => (number(fd), 0),
        };
        let attach_type = hook.attach_type();
        bpf::link_create(program.as_fd(), target, attach_type, flags).map(Self)
    }

    /// One that another daemon made.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The other program sees the next packet.
    pub fn replace_program(&self, program: impl AsFd) -> io::Result<()> {
        bpf::link_update(self.0.as_fd(), program.as_fd())
    }

    /// Out of its place, also where others hold it.
    pub fn detach(self) {
        // With its device it is gone already.
        let _ = bpf::link_detach(self.0.as_fd());
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
