//! The flow of a datagram from the balancer: one that is there, or a new one.

use aya_ebpf::programs::TcContext;
use proxy_common::{
    Counter,
    datagram::{Flow, Receiver, Traffic},
    flow::Tuple,
    shares::Placed,
};

use super::{beyond, limits::refusal, place::place_in_scratch, way};
use crate::{
    ctx::{self, Version},
    maps::{self, Scratch},
    verdict::Verdict,
};

/// Has replies find their way back, and `scratch.device` tell which way the datagram goes on.
#[inline(always)]
pub fn remember(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<(), Verdict> {
    if is_known(ctx, version, scratch, receiver)? {
        return Ok(());
    }
    match place_in_scratch() {
        Placed::InTable => Ok(()),
        placed => Err(Verdict::drop(
            refusal(placed).unwrap_or(Counter::DatagramFailed),
        )),
    }
}

/// Whether it overtakes none that goes by `lo`.
#[inline(always)]
const fn is_in_place(scratch: &Scratch, flow: &mut Flow, now: u32) -> bool {
    if !scratch.in_place {
        flow.by_lo = now;
    }
    scratch.in_place && !Flow::follows(flow.by_lo, now)
}

/// Whether a datagram's source is a client's who may send. Where its application is, it would be the application
/// itself.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn judge(service: u32, datagram: &Tuple) -> Judgement {
    let [addr, application] = datagram.addresses();
    if maps::denies(service, addr) {
        return Judgement::Denied;
    }
    let is_nobodys =
        addr == application || addr.is_martian() || maps::is_own(addr) || maps::is_steer(addr);
    if is_nobodys {
        Judgement::Nobodys
    } else {
        Judgement::Clients
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Clients,
    Nobodys,
    Denied,
}

impl Judgement {
    #[inline(always)]
    const fn verdict(self) -> Result<(), Verdict> {
        match self {
            Self::Clients => Ok(()),
            Self::Nobodys => Err(Verdict::pass(Counter::DatagramToDaemonClient)),
            Self::Denied => Err(Verdict::drop(Counter::DatagramDenied)),
        }
    }
}

/// Whether the datagram is of a flow that is there. Otherwise what is to be placed is in `scratch`.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_known(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
) -> Result<bool, Verdict> {
    let now = scratch.now;
    let mut is_clients = false;
    scratch.place.reply = scratch.rewrite.to.reversed();
    if let Some(flow) = maps::find_datagram_flow(&scratch.place.reply) {
        // SAFETY: `back` and `service` are written before the element is in the map. What is written here
        // are counts and times of one word each: where two CPUs meet, one of two is lost.
        let flow = unsafe { &mut *flow };
        if flow.back.is_reverse_of(&scratch.segment.tuple) && !flow.is_over(now) {
            go_on(ctx, version, scratch, receiver, flow, now)?;
            if maps::has(receiver, Receiver::SPP) && flow.stated != scratch.stated {
                // Replies may be reading it.
                scratch.datagram_flow = *flow;
                scratch.datagram_flow.stated = scratch.stated;
                maps::replace_datagram_flow(&scratch.place.reply, &scratch.datagram_flow);
            }
            return Ok(true);
        }
        is_clients = flow.service == receiver.service() && !flow.is_over(now);
        let balancer = scratch.segment.tuple.addresses()[0];
        let link = balancer.is_of_link().then(|| ctx::device(ctx));
        if flow.is_of_other(balancer, link, receiver.service()) && flow.is_spoken_for(now) {
            return Err(Verdict::drop(Counter::DatagramTaken));
        }
    }
    // A client who is known may come by another socket of his balancer's.
    if receiver.has(Receiver::DRAINED) && !is_clients {
        return Err(Verdict::drop(Counter::DatagramDrained));
    }
    begin(ctx, version, scratch, receiver, now)?;
    Ok(false)
}

/// With one more datagram.
#[inline(always)]
fn go_on(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
    flow: &mut Flow,
    now: u32,
) -> Result<(), Verdict> {
    if flow.judged != scratch.stamp {
        judge(receiver.service(), &scratch.rewrite.to).verdict()?;
        flow.judged = scratch.stamp;
    }
    way::is_balancers(ctx, version, flow, now)?;
    let length = length(ctx, scratch);
    scratch.device = beyond::device(ctx, &scratch.rewrite.to, length, flow, now)?;
    if Flow::follows(flow.daemon_up, now) {
        return Err(Verdict::pass(Counter::DatagramToDaemonOrder));
    }
    scratch.in_place = is_in_place(scratch, flow, now);
    if flow.service != receiver.service() {
        // Another service has this address by now.
        flow.service = receiver.service();
    }
    flow.count_up(bytes(scratch), receiver.flags() as u16, now);
    Ok(())
}

/// A new one.
#[inline(always)]
fn begin(
    ctx: &TcContext,
    version: Version,
    scratch: &mut Scratch,
    receiver: &Receiver,
    now: u32,
) -> Result<(), Verdict> {
    judge(receiver.service(), &scratch.rewrite.to).verdict()?;
    scratch.datagram_flow = Flow {
        back: scratch.segment.tuple.reversed(),
        service: receiver.service(),
        opened: now,
        last: now,
        spoken: now,
        flags: receiver.flags() as u16,
        close_after: receiver.close_after() as u16,
        stated: scratch.stated,
        by_lo: if scratch.in_place { 0 } else { now },
        judged: scratch.stamp,
        up: Traffic {
            datagrams: 1,
            bytes: bytes(scratch),
        },
        ..Flow::default()
    };
    let length = length(ctx, scratch);
    let flow = &mut scratch.datagram_flow;
    way::is_balancers(ctx, version, flow, now)?;
    scratch.device = beyond::device(ctx, &scratch.rewrite.to, length, flow, now)?;
    scratch.place.sizes = receiver.sizes();
    Ok(())
}

/// Of the packet that goes to the application.
#[inline(always)]
fn length(ctx: &TcContext, scratch: &Scratch) -> u32 {
    let to = Version::of(scratch.rewrite.to.addresses()[1]);
    way::length(ctx, to, scratch) - scratch.proxy.len
}

/// Of the client's payload.
#[inline(always)]
fn bytes(scratch: &Scratch) -> u64 {
    u64::from(scratch.segment.payload - scratch.proxy.len)
}
