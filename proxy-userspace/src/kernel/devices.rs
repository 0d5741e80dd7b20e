//! Programs on the host's devices, as these come and go.

use std::collections::{HashMap, HashSet, VecDeque, hash_map::Entry};

use anyhow::Result;
use aya::{
    Ebpf,
    maps::{HashMap as MapOf, MapData},
    programs::TcAttachType,
};
use proxy_common::{Endpoint, LO, map, program as name};

use super::{
    attach::{Attachment, On, Tc, attach_unsteered, is_by_one_of},
    bare::BareDevices,
    load::{Placement, Protocols, take},
};
use crate::netns::{Device, Entrance, Link, LinkEvent};

/// The links on the host's devices, by their index.
pub struct Devices {
    attached: HashMap<u32, (Link, Vec<Attachment>)>,
    bare: BareDevices,
    /// Whether any target is beyond this host, so that its replies come in.
    remotes: bool,
    /// Whether connections may be direct.
    direct: bool,
    protocols: Protocols,
    behind: Option<Behind>,
    /// On devices by which alone some application hears.
    entrances: HashMap<u32, Vec<Attachment>>,
    bound: MapOf<MapData, Endpoint, u32>,
}

/// Devices that a start has left for later. Until they have programs, applications' packets leave by
/// none of them.
struct Behind {
    waiting: VecDeque<Link>,
    steered: MapOf<MapData, u32, u32>,
    guard: Attachment,
}

impl Behind {
    /// What waits for each program is an RCU grace period of the kernel's: fewer devices are soon done.
    const LEAST: usize = 8;
}

impl Devices {
    pub fn new(ebpf: &mut Ebpf, placement: &Placement<'_>) -> Result<Self> {
        Ok(Self {
            direct: placement.direct,
            protocols: placement.protocols,
            bare: BareDevices::new(ebpf)?,
            bound: take(ebpf, map::BOUND)?.try_into()?,
            attached: HashMap::new(),
            remotes: false,
            behind: None,
            entrances: HashMap::new(),
        })
    }

    /// Has replies from beyond this host steered as well.
    pub fn follow_remotes(&mut self, ebpf: &mut Ebpf, tc: &mut Tc) {
        if self.remotes {
            return;
        }
        self.remotes = true;
        for (link, attached) in self.attached.values_mut() {
            let on = On {
                name: &link.name,
                index: link.index,
            };
            match tc.attach(ebpf, name::REPLY_REMOTE, on, TcAttachType::Ingress) {
                Ok(attachment) => attached.push(attachment),
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    tracing::warn!(
                        "replies that come by {} are not steered: {error:#}",
                        link.name
                    );
                }
            }
        }
    }

    /// Puts programs on the devices that are there: on those that routes lead to at once, and on the
    /// others by [`Self::catch_up`]. `routed`: none if nobody knows.
    pub fn follow_all(
        &mut self,
        ebpf: &mut Ebpf,
        tc: &mut Tc,
        events: Vec<LinkEvent>,
        own: &Device,
        routed: Option<&HashSet<u32>>,
    ) {
        let can_wait = |event: &LinkEvent| match (event, routed) {
            (LinkEvent::Present(link), Some(routed)) => {
                link.index != LO && !own.is_own(link) && !routed.contains(&link.index)
            }
            _ => false,
        };
        let (later, mut now): (Vec<_>, Vec<_>) = events.into_iter().partition(can_wait);
        if later.len() < Behind::LEAST || !tc.is_slow() {
            now.extend(later);
        } else if let Err(error) = self.fall_behind(ebpf, tc, own) {
            tracing::debug!("all devices before the first connection: {error:#}");
            now.extend(later);
        } else if let Some(behind) = &mut self.behind {
            let links = later.into_iter().filter_map(|event| match event {
                LinkEvent::Present(link) => Some(link),
                LinkEvent::Gone { .. } => None,
            });
            behind.waiting.extend(links);
        }
        for event in now {
            self.follow(ebpf, tc, event, own);
        }
    }

    fn fall_behind(&mut self, ebpf: &mut Ebpf, tc: &mut Tc, own: &Device) -> Result<()> {
        let mut steered: MapOf<_, _, _> = take(ebpf, map::STEERED)?.try_into()?;
        for device in [LO, own.index] {
            steered.insert(device, 0, 0)?;
        }
        self.behind = Some(Behind {
            waiting: VecDeque::new(),
            steered,
            guard: attach_unsteered(ebpf, tc)?,
        });
        Ok(())
    }

    /// Has clients of a steer address come in by a device, or, if that is `lo`, replies leave by it.
    pub fn enter_by(
        &mut self,
        ebpf: &mut Ebpf,
        tc: &mut Tc,
        steer: Endpoint,
        entrance: &Entrance,
    ) -> Result<()> {
        let Entrance { name, index } = entrance;
        let Entry::Vacant(free) = self.entrances.entry(*index) else {
            return Ok(self.bound.insert(steer, index, 0)?);
        };
        // Datagrams that leave by `lo` have their program there in any case.
        let (is_needed, program, hook) = match *index {
            LO => (self.protocols.tcp, name::REPLY, TcAttachType::Egress),
            _ => (true, name::DELIVER, TcAttachType::Ingress),
        };
        let mut attached = Vec::new();
        if is_needed {
            let on = On {
                name,
                index: *index,
            };
            match tc.attach(ebpf, program, on, hook) {
                Ok(attachment) => attached.push(attachment),
                Err(error) => {
                    tracing::warn!("clients don't reach an application by {name}: {error:#}");
                    tc.release(attached);
                    return Ok(());
                }
            }
        }
        free.insert(attached);
        Ok(self.bound.insert(steer, index, 0)?)
    }

    /// By steer address the devices that clients come in by.
    pub fn entered(&self) -> Vec<(Endpoint, u32)> {
        self.bound.iter().filter_map(Result::ok).collect()
    }

    /// Has clients of a steer address come in as everybody's.
    pub fn leave_for_all(&mut self, steer: &Endpoint) {
        // Whatever comes of it, the next time is as good.
        let _ = self.bound.remove(steer);
    }

    fn leave(&mut self, index: u32) -> Vec<Attachment> {
        let by_it = |(at, device)| (device == index).then_some(at);
        let left: Vec<Endpoint> = self
            .bound
            .iter()
            .filter_map(|entry| by_it(entry.ok()?))
            .collect();
        for at in left {
            // Whatever comes of it, nobody is there any more.
            let _ = self.bound.remove(&at);
        }
        self.entrances.remove(&index).unwrap_or_default()
    }

    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// One device more.
    pub fn catch_up(&mut self, ebpf: &mut Ebpf, tc: &mut Tc) {
        let next = self.behind.as_mut().and_then(|it| it.waiting.pop_front());
        match next {
            Some(link) => self.add(ebpf, tc, &link),
            None => {
                if let Some(Behind { guard, .. }) = self.behind.take() {
                    tc.release(vec![guard]);
                    let count = self.attached.len();
                    tracing::info!("replies are steered on all {count} devices");
                }
            }
        }
    }

    /// Follows the host's devices. `lo` and our own never carry a reply to the network.
    pub fn follow(&mut self, ebpf: &mut Ebpf, tc: &mut Tc, event: LinkEvent, own: &Device) {
        let (LinkEvent::Gone { index } | LinkEvent::Present(Link { index, .. })) = &event;
        if let Some(behind) = &mut self.behind {
            behind.waiting.retain(|link| link.index != *index);
        }
        match event {
            LinkEvent::Gone { index } => {
                let mut attached = self.leave(index);
                if let Some((_, others)) = self.attached.remove(&index) {
                    attached.extend(others);
                }
                tc.forget(index, attached);
                self.bare.forget(index);
            }
            LinkEvent::Present(link) if own.is_own(&link) || link.index == LO => {}
            LinkEvent::Present(link) => self.add(ebpf, tc, &link),
        }
    }

    fn add(&mut self, ebpf: &mut Ebpf, tc: &mut Tc, link: &Link) {
        // It may have become a port, or have been one: its links go first, as one program isn't
        // attached to a hook twice.
        match self.attached.entry(link.index) {
            Entry::Occupied(known) if known.get().0.is_port == link.is_port => return,
            Entry::Occupied(other) => tc.release(other.remove().1),
            Entry::Vacant(_) => {}
        }
        let mut attached = Vec::new();
        if let Err(error) = self.attach(ebpf, tc, link, &mut attached) {
            if is_gone(&error) {
                tracing::debug!(device = link.name, "gone before it was attached to");
            } else {
                tracing::warn!("replies by {} are not steered: {error:#}", link.name);
            }
            return tc.release(attached);
        }
        tracing::debug!(device = link.name, "steering replies");
        if let Some(behind) = &mut self.behind
            && let Err(error) = behind.steered.insert(link.index, 0, 0)
        {
            tracing::debug!(device = link.name, %error, "it carries replies later");
        }
        self.attached.insert(link.index, (link.clone(), attached));
    }

    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        tc: &mut Tc,
        link: &Link,
        attached: &mut Vec<Attachment>,
    ) -> Result<()> {
        self.bare.note(link)?;
        let on = On {
            name: &link.name,
            index: link.index,
        };
        for (name, hook) in self.hooks(link) {
            attached.push(tc.attach(ebpf, name, on, hook)?);
        }
        Ok(())
    }
}

impl Devices {
    /// Which programs a device needs, and where. A bridge's port, or another device's, isn't where a
    /// balancer's packets come in: that is the device above it.
    fn hooks(&self, link: &Link) -> impl Iterator<Item = (&'static str, TcAttachType)> + use<> {
        let Protocols { tcp, udp, .. } = self.protocols;
        let admit = if self.direct {
            name::DIRECT
        } else {
            name::REFUSE
        };
        let (egress, ingress) = (TcAttachType::Egress, TcAttachType::Ingress);
        let all = [
            (tcp, name::REPLY, egress),
            (tcp && self.remotes, name::REPLY_REMOTE, ingress),
            (tcp && !link.is_port, admit, ingress),
            (udp, name::DATAGRAMS_OUT, egress),
            (udp && !link.is_port, name::DATAGRAMS_IN, ingress),
        ];
        all.into_iter()
            .filter_map(|(is_needed, name, hook)| is_needed.then_some((name, hook)))
    }
}

/// The device: its end is told as well.
fn is_gone(error: &anyhow::Error) -> bool {
    is_by_one_of(error, &[libc::ENODEV])
}
