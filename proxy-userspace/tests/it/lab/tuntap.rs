//! A device whose packets this process reads and writes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, open};

use super::netns::Netns;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Frames with an Ethernet header.
    Tap,
    /// Packets without one.
    Tun,
}

impl Layer {
    /// The packet of what was read.
    pub fn packet(self, read: &[u8]) -> &[u8] {
        const ETHERNET: usize = 14;
        match self {
            Self::Tap => read.get(ETHERNET..).unwrap_or_default(),
            Self::Tun => read,
        }
    }
}

/// Makes the device, without blocking reads; it goes with the last copy of what this returns.
pub fn make(netns: &Netns, name: &str, layer: Layer) -> Result<File> {
    let make = || -> Result<File> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = File::from(open("/dev/net/tun", flags, Mode::empty())?);
        set_interface(&device, name, layer)?;
        Ok(device)
    };
    netns
        .enter(make)
        .with_context(|| format!("making {name}, a {layer:?} device"))
}

fn set_interface(device: &File, name: &str, layer: Layer) -> Result<()> {
    // SAFETY: all zero is a request, as it has numbers and bytes only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(name.len() < request.ifr_name.len(), "{name} is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let kind = match layer {
        Layer::Tap => libc::IFF_TAP,
        Layer::Tun => libc::IFF_TUN,
    };
    request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is what the pointer is to.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}
