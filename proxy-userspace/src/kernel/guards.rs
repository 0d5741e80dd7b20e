//! Programs at the drivers of devices, which drop there what tc and sk_lookup would refuse later.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    mem,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::{HashMap as MapOf, MapData},
    programs::Xdp,
};
use proxy_common::{Guarded, mac_word, map, program as name};

use super::{
    attach::{Attachment, Tc, is_taken, program},
    claims::absent_is_fine,
    link::XdpMode,
    load::{Kernel, take},
};
use crate::netns::{Link, LinkEvent};

/// The services that are guarded at a device, by its name.
type GuardedServices = BTreeMap<String, BTreeSet<u32>>;

pub struct Guards {
    map: MapOf<MapData, Guarded, u64>,
    wanted: GuardedServices,
    /// The host's, by their indices.
    devices: HashMap<u32, Link>,
    attached: HashMap<u32, (XdpMode, Attachment)>,
    /// Why a device isn't guarded that is there.
    unguarded: HashMap<u32, String>,
}

impl Kernel {
    /// Has these services guarded, and no others. A device that isn't there is guarded when it comes.
    pub fn guard(&mut self, wanted: GuardedServices) -> Result<()> {
        let before = mem::replace(&mut self.guards.wanted, wanted);
        let failed = self.guards.settle(&mut self.ebpf, &mut self.tc)?;
        if let Some(error) = failed.into_iter().next() {
            bail!(error);
        }
        let new = self.guards.wanted.keys();
        let new = new.filter(|name| !before.contains_key(*name));
        for name in new.filter(|name| self.guards.present(name).is_none()) {
            tracing::warn!("{}", absent(name));
        }
        Ok(())
    }

    /// The devices that are to be guarded, and how they are, or why they aren't.
    pub fn guarded(&self) -> Vec<(String, Result<&'static str, String>)> {
        let Guards {
            wanted,
            attached,
            unguarded,
            ..
        } = &self.guards;
        let guarded = |name: &str| {
            let index = self.guards.present(name).ok_or_else(|| absent(name))?;
            match (attached.get(&index), unguarded.get(&index)) {
                (Some((mode, _)), _) => Ok(mode.name()),
                (None, why) => Err(why.cloned().unwrap_or_default()),
            }
        };
        let each = wanted.keys().map(|name| (name.clone(), guarded(name)));
        each.collect()
    }
}

fn absent(name: &str) -> String {
    format!("there is no device {name}: it is guarded once it is there")
}

impl Guards {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            map: take(ebpf, map::GUARDED)?.try_into()?,
            wanted: GuardedServices::new(),
            devices: HashMap::new(),
            attached: HashMap::new(),
            unguarded: HashMap::new(),
        })
    }

    /// The index of a device that is there.
    fn present(&self, name: &str) -> Option<u32> {
        let mut all = self.devices.values();
        Some(all.find(|link| link.name == name)?.index)
    }

    pub fn note(&mut self, event: &LinkEvent) {
        match event {
            LinkEvent::Present(link) => drop(self.devices.insert(link.index, link.clone())),
            LinkEvent::Gone { index } => drop(self.devices.remove(index)),
        }
    }

    /// As [`Self::settle`], where nobody waits for the result.
    pub fn follow(&mut self, ebpf: &mut Ebpf, tc: &mut Tc) {
        match self.settle(ebpf, tc) {
            Ok(failed) => failed.iter().for_each(|error| tracing::error!("{error}")),
            Err(error) => tracing::error!("{error:#}"),
        }
    }

    /// Programs and entries where they are wanted, and nowhere else. Why it can't be so at devices where that wasn't known
    /// before.
    fn settle(&mut self, ebpf: &mut Ebpf, tc: &mut Tc) -> Result<Vec<String>> {
        let present = self.devices.values();
        let wanted = present.filter_map(|link| Some((link, self.wanted.get(&link.name)?)));
        let wanted: Vec<(Link, &BTreeSet<u32>)> = wanted
            .map(|(link, services)| (link.clone(), services))
            .collect();
        let is_wanted = |index: u32| wanted.iter().any(|(link, _)| link.index == index);
        let attached = self.attached.keys().copied();
        let idle: Vec<u32> = attached.filter(|index| !is_wanted(*index)).collect();
        for index in idle {
            let attachment = self
                .attached
                .remove(&index)
                .map(|(_, attachment)| attachment);
            tc.release(attachment.into_iter().collect());
        }
        let mut entries = HashMap::new();
        let known = mem::take(&mut self.unguarded);
        for (link, services) in &wanted {
            if let Entry::Vacant(free) = self.attached.entry(link.index) {
                match attach(ebpf, tc, link) {
                    Ok(attached) => drop(free.insert(attached)),
                    Err(error) => {
                        self.unguarded.insert(link.index, format!("{error:#}"));
                        continue;
                    }
                }
            }
            let mac = mac_word(link.mac.unwrap_or_default());
            let each = services.iter().map(|&service| {
                let device = link.index;
                (Guarded { device, service }, mac)
            });
            entries.extend(each);
        }
        let there: Vec<Guarded> = self.map.keys().filter_map(Result::ok).collect();
        for gone in there.iter().filter(|at| !entries.contains_key(at)) {
            absent_is_fine(self.map.remove(gone)).context("guarding a service no more")?;
        }
        for (at, mac) in entries {
            let inserted = self.map.insert(at, mac, 0);
            inserted.context("too many services are guarded")?;
        }
        let new = self.unguarded.iter();
        let new = new.filter(|(index, _)| !known.contains_key(index));
        Ok(new.map(|(_, error)| error.clone()).collect())
    }
}

fn attach(ebpf: &mut Ebpf, tc: &mut Tc, link: &Link) -> Result<(XdpMode, Attachment)> {
    let name = &link.name;
    if link.mac.is_none() {
        bail!("{name} has no Ethernet header, and can't be guarded: leave it out of --guard");
    }
    let guard: &mut Xdp = program(ebpf, name::GUARD)?;
    let (mode, attachment) = tc.attach_xdp(guard.fd()?, link.index).map_err(|error| {
        if is_taken(&error) {
            return anyhow!(
                "{name} has a program of XDP already, somebody else's: take that off, or leave {name} out of --guard"
            );
        }
        error.context(format!("guarding {name} by XDP"))
    })?;
    tracing::info!("guarding {name} by {} XDP", mode.name());
    Ok((mode, attachment))
}
