//! Where each program hooks in. Links are file descriptors: all end with the process, but for
//! those of `clsact`.

use std::{
    collections::HashMap,
    io, mem,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{
        CgroupSkb, CgroupSockAddr, Program, ProgramError, SchedClassifier, SkLookup, SockOps,
        TcAttachType, tc::SchedClassifierLink,
    },
};
use proxy_common::{LO, program as name};

use super::{
    LowFds, Placement, cgroup,
    clsact::Clsact,
    features::{Feature, has_tcx},
    link::{CgroupHook, Hook, Link as HookLink, LinkPlace, XdpMode},
    share::{self, Change},
};
use crate::{netns::Device, sys};

/// The programs that stay where they are.
pub fn attach(ebpf: &mut Ebpf, tc: &mut Tc, placement: &Placement<'_>) -> Result<Vec<Attachment>> {
    let host = sys::current_netns()?;
    let mut attached = Vec::new();
    let protocols = placement.protocols;
    let lookups = [
        (true, name::DISPATCH, host.as_fd()),
        (protocols.udp, name::CATCH, placement.spoof),
    ];
    for (_, name, netns) in lookups.into_iter().filter(|(is_needed, ..)| *is_needed) {
        let lookup: &mut SkLookup = program(ebpf, name)?;
        let lookup = tc.link(name, 0, Hook::SkLookup(netns), lookup.fd()?);
        attached.push(lookup.context("attaching to sk_lookup")?);
    }
    let Device { name, index, .. } = placement.device;
    let veth = On {
        name,
        index: *index,
    };
    let inject = tc.attach(ebpf, name::INJECT, veth, TcAttachType::Ingress);
    attached.push(inject.with_context(|| format!("attaching inject to {name}"))?);
    if protocols.udp {
        let reply = tc.attach(ebpf, name::DATAGRAMS_OUT_OWN, veth, TcAttachType::Egress);
        attached.push(reply.with_context(|| format!("attaching datagrams_out_own to {name}"))?);
        // An application may answer by the very device that its client's datagram came in by.
        let reply = tc.attach(ebpf, name::DATAGRAMS_OUT, LOOPBACK, TcAttachType::Egress);
        attached.push(reply.context("attaching datagrams_out to lo")?);
    }
    if protocols.tcp && placement.direct {
        let reply = tc.attach(ebpf, name::REPLY_OWN, veth, TcAttachType::Egress);
        attached.push(reply.with_context(|| format!("attaching reply_own to {name}"))?);
        match attach_accepted(ebpf, tc) {
            Ok(accepted) => attached.push(accepted),
            Err(error) => tracing::warn!(
                "an application without keepalive keeps direct connections of balancers that have \
                 vanished, and a copy of a connection's first segment that comes seconds after its end \
                 makes another one: {error:#}"
            ),
        }
    }
    match attach_unrouted(ebpf, tc) {
        Ok(unrouted) => attached.extend(unrouted),
        Err(error) if protocols.udp => {
            return Err(
                error.context("without it, replies from 0.0.0.0 would go to the real clients")
            );
        }
        Err(error) => tracing::warn!(
            "while this host has no default route, its own connects to where it has no route wait for \
             nothing: {error:#}"
        ),
    }
    if placement.via_lo {
        let deliver = tc.attach(ebpf, name::DELIVER, LOOPBACK, TcAttachType::Ingress);
        attached.push(deliver.context("attaching deliver to lo")?);
    }
    Ok(attached)
}

/// Whether a device has somebody else's program of XDP.
pub fn is_taken(error: &anyhow::Error) -> bool {
    is_by_one_of(error, &[libc::EBUSY, libc::EEXIST])
}

/// Whether the kernel gave one of these as the reason.
pub fn is_by_one_of(error: &anyhow::Error, reasons: &[i32]) -> bool {
    let causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    let mut said = causes.filter_map(io::Error::raw_os_error);
    said.any(|said| reasons.contains(&said))
}

/// To all of the host's sockets: the program picks those of direct connections.
fn attach_accepted(ebpf: &mut Ebpf, tc: &mut Tc) -> Result<Attachment> {
    let accepted: &mut SockOps = program(ebpf, name::ACCEPTED)?;
    accepted.load()?;
    attach_to_sockets(tc, name::ACCEPTED, CgroupHook::SockOps, accepted.fd()?)
}

/// The programs that keep the host's own traffic from our route of last resort.
pub const UNROUTED: [(&str, CgroupHook); 4] = [
    (name::CONNECT4, CgroupHook::Connect4),
    (name::CONNECT6, CgroupHook::Connect6),
    (name::SENDMSG4, CgroupHook::Sendmsg4),
    (name::SENDMSG6, CgroupHook::Sendmsg6),
];

fn attach_unrouted(ebpf: &mut Ebpf, tc: &mut Tc) -> Result<Vec<Attachment>> {
    let each = UNROUTED.into_iter().map(|(name, hook)| {
        let unrouted: &mut CgroupSockAddr = program(ebpf, name)?;
        attach_to_sockets(tc, name, hook, unrouted.fd()?)
    });
    each.collect()
}

/// The program that lets an application's packets leave by no device but those that it is told of.
pub fn attach_unsteered(ebpf: &mut Ebpf, tc: &mut Tc) -> Result<Attachment> {
    let unsteered: &mut CgroupSkb = program(ebpf, name::UNSTEERED)?;
    unsteered.load()?;
    attach_to_sockets(tc, name::UNSTEERED, CgroupHook::Egress, unsteered.fd()?)
}

/// The program that tells which flows' datagrams sockets have got.
pub fn attach_heard(ebpf: &mut Ebpf, tc: &mut Tc) -> Result<Attachment> {
    let heard: &mut CgroupSkb = program(ebpf, name::HEARD)?;
    heard.load()?;
    attach_to_sockets(tc, name::HEARD, CgroupHook::Ingress, heard.fd()?)
}

fn attach_to_sockets(
    tc: &mut Tc,
    name: &str,
    hook: CgroupHook,
    program: impl AsFd,
) -> Result<Attachment> {
    let cgroup = cgroup::root().context("opening the root of cgroup2")?;
    let link = tc.link(name, 0, Hook::Cgroup(hook, cgroup.as_fd()), program);
    link.with_context(|| format!("attaching {name} to the root of cgroup2"))
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

const LOOPBACK: On<'_> = On {
    name: "lo",
    index: LO,
};

/// How programs come onto devices.
pub struct Tc {
    by: By,
    low: LowFds,
    /// What a daemon before this one left, until it is needed.
    left: HashMap<String, (LinkPlace, OwnedFd)>,
    changes: Vec<Change>,
}

/// What holds a program in its place. Gone when dropped, unless somebody else holds it too.
pub enum Attachment {
    Link { name: String, link: HookLink },
    Filter(#[expect(dead_code, reason = "holds the program in its place")] SchedClassifierLink),
}

enum By {
    Tcx,
    Clsact(Clsact),
}

impl Tc {
    /// What this kernel has.
    pub fn new(
        instance: &str,
        low: LowFds,
        left: HashMap<String, (LinkPlace, OwnedFd)>,
        changes: Vec<Change>,
    ) -> Self {
        let by = if let Feature::Present = has_tcx() {
            By::Tcx
        } else {
            tracing::info!("a kernel before 6.6: attaching by clsact, which kill -9 doesn't undo");
            By::Clsact(Clsact::new(instance))
        };
        Self {
            by,
            low,
            left,
            changes,
        }
    }

    pub fn changes(&mut self) -> Vec<Change> {
        mem::take(&mut self.changes)
    }

    /// What was left and isn't needed, as its service isn't there any more.
    pub fn drop_left(&mut self) {
        for (_, (_, fd)) in self.left.drain() {
            HookLink::adopt(fd).detach();
        }
    }

    /// Whether the kernel takes its time for each program on a device. Those that don't may not run
    /// [`attach_unsteered`]'s for an answer to a SYN.
    pub fn is_slow(&self) -> bool {
        matches!(self.by, By::Tcx)
    }

    /// Whether another daemon can continue with what this one has.
    pub fn can_be_inherited(&self) -> bool {
        matches!(self.by, By::Tcx)
    }

    /// A new one, or that of a daemon before this one.
    fn link(
        &mut self,
        program: &str,
        device: u32,
        hook: Hook<'_>,
        fd: impl AsFd,
    ) -> Result<Attachment> {
        let name = share::link_name(program, device);
        self.low.release();
        let link = share::link(&mut self.left, &name, hook, fd)?;
        let duplicate = link.as_fd().try_clone_to_owned()?;
        self.changes.push(Change::Hold(name.clone(), duplicate));
        Ok(Attachment::Link { name, link })
    }

    /// At a device's driver, or where the stack does it instead; where a daemon before this one had it, there.
    pub fn attach_xdp(
        &mut self,
        program: impl AsFd + Copy,
        device: u32,
    ) -> Result<(XdpMode, Attachment)> {
        let name = |mode: XdpMode| format!("{} xdp", mode.name());
        let generic = share::link_name(&name(XdpMode::Generic), device);
        let (first, second) = match self.left.contains_key(&generic) {
            true => (XdpMode::Generic, XdpMode::Native),
            false => (XdpMode::Native, XdpMode::Generic),
        };
        let mut attach = |mode| {
            let link = self.link(&name(mode), device, Hook::Xdp(device, mode), program);
            link.map(|attachment| (mode, attachment))
        };
        match attach(first) {
            Err(error) if !is_taken(&error) => attach(second),
            done => done,
        }
    }

    /// In front of other programs: one of them may end the chain with a verdict of its own. Ours
    /// pass all packets on that are none of ours.
    pub fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        name: &str,
        on: On<'_>,
        hook: TcAttachType,
    ) -> Result<Attachment> {
        let program: &mut SchedClassifier = program(ebpf, name)?;
        match &mut self.by {
            By::Tcx => {
                let place = match hook {
                    TcAttachType::Egress => Hook::TcxEgress(on.index),
                    _ => Hook::TcxIngress(on.index),
                };
                self.link(name, on.index, place, program.fd()?)
            }
            By::Clsact(clsact) => {
                let id = clsact.attach(program, on, hook, name)?;
                Ok(Attachment::Filter(program.take_link(id)?))
            }
        }
    }

    /// The device is gone, and these with it.
    pub fn forget(&mut self, index: u32, attached: Vec<Attachment>) {
        self.release(attached);
        if let By::Clsact(clsact) = &mut self.by {
            clsact.forget(index);
        }
    }

    pub fn release(&mut self, attached: Vec<Attachment>) {
        for attachment in attached {
            if let Attachment::Link { name, link } = attachment {
                link.detach();
                self.changes.push(Change::Release(name));
                self.low.refill();
            }
        }
    }
}
