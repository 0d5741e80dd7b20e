//! Devices whose packets have no Ethernet header, such as those of WireGuard and tun, for the programs to
//! know.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use proxy_common::{ETHERNET_LEN, Links, map};

use super::load::take;
use crate::netns::Link;

pub struct BareDevices {
    all: HashMap<MapData, u32, u32>,
    links: Array<MapData, u32>,
}

impl BareDevices {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let mut links: Array<_, u32> = take(ebpf, map::LINKS)?.try_into()?;
        links.set(Links::Ethernet as u32, ETHERNET_LEN, 0)?;
        Ok(Self {
            all: take(ebpf, map::BARE_DEVICES)?.try_into()?,
            links,
        })
    }

    /// Before a program is there: it would take the first bytes of a packet for those of another header.
    pub fn note(&mut self, link: &Link) -> Result<()> {
        if link.ethernet {
            self.forget(link.index);
            return Ok(());
        }
        let noted = self.all.insert(link.index, 0, 0);
        noted.context("noting that it has no Ethernet header")?;
        Ok(self.links.set(Links::AnyIsBare as u32, 1, 0)?)
    }

    pub fn forget(&mut self, index: u32) {
        // It need not have been one.
        let _ = self.all.remove(&index);
    }
}
