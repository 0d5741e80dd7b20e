//! Where each program hooks in. Links are file descriptors: all end with the process.

use std::collections::{HashMap, hash_map::Entry};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, SkLookup, TcAttachType,
        tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
    },
};
use proxy_common::program as name;

use super::Placement;
use crate::{
    netns::{Device, Link, LinkEvent},
    sys,
};

pub fn attach(ebpf: &mut Ebpf, placement: &Placement<'_>) -> Result<()> {
    let host = sys::current_netns()?;
    let dispatch: &mut SkLookup = program(ebpf, name::DISPATCH)?;
    dispatch.attach(&host).context("attaching to sk_lookup")?;
    let veth = placement.device.name.as_str();
    attach_tc(program(ebpf, name::INJECT)?, veth, TcAttachType::Ingress)
        .with_context(|| format!("attaching inject to {veth}"))?;
    if placement.via_lo {
        attach_tc(program(ebpf, name::DELIVER)?, "lo", TcAttachType::Ingress)
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

/// In front of other programs: one of them may end the chain with a verdict of its own. Ours pass
/// all packets on that are none of ours.
fn attach_tc(
    program: &mut SchedClassifier,
    device: &str,
    hook: TcAttachType,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    program.attach_with_options(device, hook, first)
}

/// The reply programs' links, by the index of the host's device.
#[derive(Default)]
pub struct Replies {
    links: HashMap<u32, Vec<SchedClassifierLink>>,
    /// Whether any target is beyond this host: without one, ingress costs nothing.
    remotes: bool,
}

impl Replies {
    /// Has replies from beyond this host steered as well, on devices that are followed from now on.
    pub fn follow_remotes(&mut self) {
        self.remotes = true;
    }

    /// Follows the host's devices. `lo` and the veth never carry a reply to the network.
    pub fn follow(&mut self, ebpf: &mut Ebpf, event: LinkEvent, own: &Device) {
        match event {
            LinkEvent::Gone { index } => drop(self.links.remove(&index)),
            LinkEvent::Present(link) if link.index == own.index || link.index == LO => {}
            LinkEvent::Present(link) => self.add(ebpf, &link),
        }
    }

    fn add(&mut self, ebpf: &mut Ebpf, link: &Link) {
        let Entry::Vacant(vacant) = self.links.entry(link.index) else {
            return;
        };
        let attached: Result<Vec<_>> = hooks(link.ethernet, self.remotes)
            .map(|(name, hook)| attach_reply(ebpf, link, name, hook))
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

/// `lo`'s index in every namespace.
const LO: u32 = 1;

/// Which programs a device needs, and where.
fn hooks(ethernet: bool, remotes: bool) -> impl Iterator<Item = (&'static str, TcAttachType)> {
    let (local, remote) = match ethernet {
        true => (name::REPLY, name::REPLY_REMOTE),
        false => (name::REPLY_L3, name::REPLY_REMOTE_L3),
    };
    let remote = remotes.then_some((remote, TcAttachType::Ingress));
    std::iter::once((local, TcAttachType::Egress)).chain(remote)
}

fn attach_reply(
    ebpf: &mut Ebpf,
    link: &Link,
    name: &str,
    hook: TcAttachType,
) -> Result<SchedClassifierLink> {
    let program: &mut SchedClassifier = program(ebpf, name)?;
    let id = attach_tc(program, &link.name, hook)?;
    Ok(program.take_link(id)?)
}
