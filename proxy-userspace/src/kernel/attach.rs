//! Where each program hooks in. Links are file descriptors: all end with the process, but for
//! those of `clsact`.

use std::collections::{HashMap, hash_map::Entry};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, SkLookup, TcAttachType,
        tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
    },
    util::KernelVersion,
};
use proxy_common::{LO, program as name};

use super::{LowFds, Placement, clsact::Clsact};
use crate::{
    netns::{Device, Link, LinkEvent},
    sys,
};

pub fn attach(ebpf: &mut Ebpf, tc: &mut Tc, placement: &Placement<'_>) -> Result<()> {
    let host = sys::current_netns()?;
    let dispatch: &mut SkLookup = program(ebpf, name::DISPATCH)?;
    tc.low.release();
    dispatch.attach(&host).context("attaching to sk_lookup")?;
    let Device { name, index, .. } = placement.device;
    let veth = On {
        name,
        index: *index,
    };
    tc.attach(ebpf, name::INJECT, veth, TcAttachType::Ingress)
        .with_context(|| format!("attaching inject to {name}"))?;
    if placement.handover {
        tc.attach(ebpf, name::REPLY_OWN, veth, TcAttachType::Egress)
            .with_context(|| format!("attaching reply_own to {name}"))?;
    }
    if placement.via_lo {
        let lo = On {
            name: "lo",
            index: LO,
        };
        tc.attach(ebpf, name::DELIVER, lo, TcAttachType::Ingress)
            .context("attaching deliver to lo")?;
    }
    Ok(())
}

pub fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .with_context(|| format!("the eBPF object has no program {name}"))?
        .try_into()
        .with_context(|| format!("program {name} is of another type"))
}

/// A device to attach to.
#[derive(Clone, Copy)]
pub struct On<'a> {
    pub name: &'a str,
    pub index: u32,
}

/// How programs come onto devices.
pub struct Tc {
    by: By,
    low: LowFds,
}

enum By {
    Tcx,
    Clsact(Clsact),
}

impl Tc {
    /// What this kernel has.
    pub fn new(instance: &str, low: LowFds) -> Self {
        let tcx = KernelVersion::new(6, 6, 0);
        let by = if KernelVersion::current().is_ok_and(|current| current >= tcx) {
            By::Tcx
        } else {
            tracing::info!("a kernel before 6.6: attaching by clsact, which kill -9 doesn't undo");
            By::Clsact(Clsact::new(instance))
        };
        Self { by, low }
    }

    /// In front of other programs: one of them may end the chain with a verdict of its own. Ours
    /// pass all packets on that are none of ours.
    fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        name: &str,
        on: On<'_>,
        hook: TcAttachType,
    ) -> Result<SchedClassifierLinkId> {
        let program: &mut SchedClassifier = program(ebpf, name)?;
        match &mut self.by {
            By::Tcx => {
                self.low.release();
                let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                Ok(program.attach_with_options(on.name, hook, first)?)
            }
            By::Clsact(clsact) => clsact.attach(program, on, hook, name),
        }
    }

    /// The device is gone, and `links` with it.
    fn forget(&mut self, index: u32, links: usize) {
        match &mut self.by {
            By::Tcx => (0..links).for_each(|_| self.low.refill()),
            By::Clsact(clsact) => clsact.forget(index),
        }
    }
}

/// The reply programs' links, by the index of the host's device.
pub struct Replies {
    links: HashMap<u32, Vec<SchedClassifierLink>>,
    /// Whether any target is beyond this host: without one, ingress costs nothing.
    remotes: bool,
    /// Whether connections are handed over.
    handover: bool,
}

impl Replies {
    pub fn new(handover: bool) -> Self {
        Self {
            links: HashMap::new(),
            remotes: false,
            handover,
        }
    }

    /// Has replies from beyond this host steered as well, on devices that are followed from now on.
    pub fn follow_remotes(&mut self) {
        self.remotes = true;
    }

    /// Follows the host's devices. `lo` and the veth never carry a reply to the network.
    pub fn follow(&mut self, ebpf: &mut Ebpf, tc: &mut Tc, event: LinkEvent, own: &Device) {
        match event {
            LinkEvent::Gone { index } => {
                let links = self.links.remove(&index).map_or(0, |links| links.len());
                tc.forget(index, links);
            }
            LinkEvent::Present(link) if link.index == own.index || link.index == LO => {}
            LinkEvent::Present(link) => self.add(ebpf, tc, &link),
        }
    }

    fn add(&mut self, ebpf: &mut Ebpf, tc: &mut Tc, link: &Link) {
        let Entry::Vacant(vacant) = self.links.entry(link.index) else {
            return;
        };
        let attached: Result<Vec<_>> = hooks(link.ethernet, self.remotes, self.handover)
            .map(|(name, hook)| attach_reply(ebpf, tc, link, name, hook))
            .collect();
        match attached {
            Ok(attached) => {
                tracing::debug!(device = link.name, "steering replies");
                vacant.insert(attached);
            }
            Err(error) => {
                tracing::warn!("replies by {} are not steered: {error:#}", link.name);
            }
        }
    }
}

/// Which programs a device needs, and where.
fn hooks(
    ethernet: bool,
    remotes: bool,
    handover: bool,
) -> impl Iterator<Item = (&'static str, TcAttachType)> {
    let (local, remote) = match ethernet {
        true => (name::REPLY, name::REPLY_REMOTE),
        false => (name::REPLY_L3, name::REPLY_REMOTE_L3),
    };
    let remote = remotes.then_some((remote, TcAttachType::Ingress));
    let forward = (handover && ethernet).then_some((name::FORWARD, TcAttachType::Ingress));
    let local = std::iter::once((local, TcAttachType::Egress));
    local.chain(remote).chain(forward)
}

fn attach_reply(
    ebpf: &mut Ebpf,
    tc: &mut Tc,
    link: &Link,
    name: &str,
    hook: TcAttachType,
) -> Result<SchedClassifierLink> {
    let on = On {
        name: &link.name,
        index: link.index,
    };
    let id = tc.attach(ebpf, name, on, hook)?;
    Ok(program::<SchedClassifier>(ebpf, name)?.take_link(id)?)
}
