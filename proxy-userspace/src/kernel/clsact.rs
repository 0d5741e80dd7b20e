//! Kernels before 6.6 have no tcx. There, programs are filters of a device's clsact qdisc, which no
//! file descriptor holds: after kill -9 they stay, and the next start takes them over.
//!
//! What stays does nothing: `deliver` waits for a mark that nobody sets any more, `reply` for packets from
//! an address that went with the veth, `refuse` finds no route by it, and the programs of UDP ask whether they
//! were left (`STAYS`).

use std::{collections::BTreeSet, io};

use anyhow::{Context, Result, bail};
use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{
        self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError,
        TcHandle,
    },
};
use proxy_common::program::{DATAGRAMS_IN, REFUSE};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
        NetlinkMessage,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle as Parent, TcMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use rustix::io::Errno;

use super::attach::On;

/// In front of other filters, or behind as few as possible: those of another kind than bpf have
/// their priority to themselves. At the same priority the last bpf filter to come is the first.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=16;

/// In a handle: the qdisc is ours as well. The next start knows it by this.
const WITH_QDISC: u32 = 1;
/// In a handle: the filter is one that may stand beside another one of ours, as `refuse` beside `deliver`.
const SECOND: u32 = 2;

const KIND: &str = "clsact";

pub struct Clsact {
    /// Of all our filters but for [`WITH_QDISC`] and [`SECOND`]. The same at the instance's next
    /// start, and not one of the small numbers that the kernel gives out.
    handle: u32,
    /// Devices whose qdisc we added.
    added: BTreeSet<u32>,
}

impl Clsact {
    pub fn new(instance: &str) -> Self {
        Self {
            handle: crc32c::crc32c(instance.as_bytes()) & !(WITH_QDISC | SECOND),
            added: BTreeSet::new(),
        }
    }

    pub fn attach(
        &mut self,
        program: &mut SchedClassifier,
        on: On<'_>,
        hook: TcAttachType,
        name: &str,
    ) -> Result<SchedClassifierLinkId> {
        self.ensure_qdisc(on)?;
        let which = if [REFUSE, DATAGRAMS_IN].contains(&name) {
            SECOND
        } else {
            0
        };
        for priority in PRIORITIES {
            match self.attach_at(priority, program, on, hook, which) {
                Err(error) if errno(&error) == Some(Errno::INVAL) => {}
                done => return Ok(done?),
            }
        }
        bail!(
            "other filters have the priorities up to {}",
            PRIORITIES.end()
        )
    }

    /// The device is gone, and its qdisc with it.
    pub fn forget(&mut self, index: u32) {
        self.added.remove(&index);
    }

    fn ensure_qdisc(&mut self, on: On<'_>) -> Result<()> {
        match tc::qdisc_add_clsact(on.name) {
            Ok(()) => drop(self.added.insert(on.index)),
            Err(TcError::NetlinkError(error)) if is(error.raw_os_error(), Errno::EXIST) => {
                // It would take filters for its egress, and run them at ingress.
                let get = RouteNetlinkMessage::GetQueueDiscipline(qdisc(on.index));
                first_answer(get, NLM_F_ACK).context(
                    "it has an ingress qdisc, which has no egress: put clsact in its place",
                )?;
            }
            Err(error) => return Err(error).context("adding clsact (module sch_ingress)"),
        }
        Ok(())
    }

    fn attach_at(
        &mut self,
        priority: u16,
        program: &mut SchedClassifier,
        on: On<'_>,
        hook: TcAttachType,
        which: u32,
    ) -> Result<SchedClassifierLinkId, ProgramError> {
        if !self.added.contains(&on.index) {
            let left = replace(program, on, hook, priority, self.handle(WITH_QDISC | which));
            if left.is_ok() {
                self.added.insert(on.index);
                return left;
            }
        }
        let added = self.added.contains(&on.index);
        let handle = self.handle(if added { WITH_QDISC | which } else { which });
        let options = TcAttachOptions::Netlink(NlOptions {
            priority,
            handle,
            classid: None,
        });
        match program.attach_with_options(on.name, hook, options) {
            Err(error) if errno(&error) == Some(Errno::EXIST) => {
                replace(program, on, hook, priority, handle)
            }
            done => done,
        }
    }

    fn handle(&self, bits: u32) -> TcHandle {
        (self.handle | bits).into()
    }
}

impl Drop for Clsact {
    /// After the filters: they are with the programs, in front of this in `Kernel`. Between the
    /// question and the deed others may add a filter; the kernel offers nothing better.
    fn drop(&mut self) {
        for &index in &self.added {
            if let Ok(false) = is_in_use(index) {
                let delete = RouteNetlinkMessage::DelQueueDiscipline(qdisc(index));
                let _ = first_answer(delete, NLM_F_ACK);
            }
        }
    }
}

/// Takes the place of a filter that a killed daemon left.
fn replace(
    program: &mut SchedClassifier,
    on: On<'_>,
    hook: TcAttachType,
    priority: u16,
    handle: TcHandle,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let left = SchedClassifierLink::attached(on.name, hook, priority, handle, None);
    program.attach_to_link(left.map_err(TcError::from)?)
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::TcError(TcError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            error.raw_os_error().map(Errno::from_raw_os_error)
        }
        _ => None,
    }
}

fn is(raw: Option<i32>, errno: Errno) -> bool {
    raw == Some(errno.raw_os_error())
}

/// Whether anybody's filter is there, at either hook.
fn is_in_use(index: u32) -> io::Result<bool> {
    for minor in [Parent::MIN_INGRESS, Parent::MIN_EGRESS] {
        let mut filters = about(index);
        filters.header.parent = Parent {
            minor,
            ..Parent::CLSACT
        };
        let list = RouteNetlinkMessage::GetTrafficFilter(filters);
        if first_answer(list, NLM_F_DUMP)? != Answer::Done {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A device's clsact qdisc: the kernel refuses requests for it if the device has another kind.
fn qdisc(index: u32) -> TcMessage {
    let mut message = about(index);
    message.header.parent = Parent::CLSACT;
    message.attributes.push(TcAttribute::Kind(KIND.into()));
    message
}

fn about(index: u32) -> TcMessage {
    TcMessage::with_index(index.cast_signed())
}

#[derive(PartialEq, Eq)]
enum Answer {
    /// There is nothing, or nothing more.
    Done,
    Something,
}

/// Asks the kernel, and doesn't wait for more than its first answer.
fn first_answer(message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let answer = NetlinkBuffer::new_checked(&bytes).map_err(io::Error::other)?;
    match (answer.message_type(), answer.payload()) {
        (NLMSG_DONE, _) => Ok(Answer::Done),
        // An acknowledgement is an error of 0.
        (NLMSG_ERROR, &[0, 0, 0, 0, ..]) => Ok(Answer::Done),
        (NLMSG_ERROR, &[a, b, c, d, ..]) => {
            let negative = i32::from_ne_bytes([a, b, c, d]);
            Err(io::Error::from_raw_os_error(negative.saturating_neg()))
        }
        _ => Ok(Answer::Something),
    }
}
