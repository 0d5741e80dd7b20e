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

/// The reply programs' links, one for each device of the host.
#[derive(Default)]
pub struct Replies(HashMap<u32, SchedClassifierLink>);

impl Replies {
    /// Follows the host's devices. `lo` and the veth never carry a reply to the network.
    pub fn follow(&mut self, ebpf: &mut Ebpf, event: LinkEvent, own: &Device) {
        match event {
            LinkEvent::Gone { index } => drop(self.0.remove(&index)),
            LinkEvent::Present(link) if link.index == own.index || link.index == LO => {}
            LinkEvent::Present(link) => match self.0.entry(link.index) {
                Entry::Occupied(_) => {}
                Entry::Vacant(vacant) => match attach_reply(ebpf, &link) {
                    Ok(attached) => {
                        tracing::debug!(device = link.name, "steering replies");
                        vacant.insert(attached);
                    }
                    Err(error) => {
                        tracing::warn!("replies by {} are not steered: {error:#}", link.name)
                    }
                },
            },
        }
    }
}

/// `lo`'s index in every namespace.
const LO: u32 = 1;

fn attach_reply(ebpf: &mut Ebpf, link: &Link) -> Result<SchedClassifierLink> {
    let name = if link.ethernet {
        name::REPLY
    } else {
        name::REPLY_L3
    };
    let program: &mut SchedClassifier = program(ebpf, name)?;
    let id = attach_tc(program, &link.name, TcAttachType::Egress)?;
    Ok(program.take_link(id)?)
}
