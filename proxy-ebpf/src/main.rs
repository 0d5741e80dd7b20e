//! truepeer's entry points. Each maps its job's verdict or reason to what the kernel shall do,
//! exhaustively, and counts it.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the kernel's interface has offsets, lengths, actions, ids and ports in other types"
)]

mod admit;
mod bounds;
mod ctx;
mod direct;
mod lookup;
mod maps;
mod repeat;
mod steer;
mod wire;

use core::ptr::null_mut;

use admit::dispatch;
use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, sk_action,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_redirect, bpf_redirect_neigh},
    macros::{classifier, sk_lookup, sock_ops},
    programs::{SkLookupContext, SockOpsContext, TcContext},
};
use aya_log_ebpf::warn;
use ctx::Link;
use direct::{answer::Out, down};
use maps::count;
use proxy_common::{Addr, Counter, LO};
use steer::{deliver, inject, reply};

#[classifier]
pub fn reply(ctx: TcContext) -> i32 {
    answer(reply::reply(&ctx, Link::Ethernet))
}

#[classifier]
pub fn reply_l3(ctx: TcContext) -> i32 {
    answer(reply::reply(&ctx, Link::Bare))
}

#[classifier]
pub fn reply_own(ctx: TcContext) -> i32 {
    answer(reply::reply_own(&ctx))
}

#[classifier]
pub fn reply_remote(ctx: TcContext) -> i32 {
    answer(reply::reply_remote(&ctx, Link::Ethernet))
}

#[classifier]
pub fn reply_remote_l3(ctx: TcContext) -> i32 {
    answer(reply::reply_remote(&ctx, Link::Bare))
}

#[inline(always)]
fn answer(verdict: Result<reply::Verdict, reply::Reason>) -> i32 {
    match verdict {
        Ok(reply::Verdict::Foreign) => TCX_NEXT,
        Ok(reply::Verdict::Steer) => {
            count(Counter::ReplySteered);
            redirect(maps::device(), 0)
        }
        Ok(reply::Verdict::Direct(down::Way::AsItIs)) => {
            count(Counter::DirectDown);
            TCX_NEXT
        }
        Ok(reply::Verdict::Direct(down::Way::Device(device))) => {
            count(Counter::DirectDown);
            redirect_by_route(device)
        }
        Ok(reply::Verdict::Direct(down::Way::IcmpDevice(device))) => {
            count(Counter::DirectIcmp);
            redirect_by_route(device)
        }
        Err(reply::Reason::NoHeader) => {
            count(Counter::ReplyFailed);
            TCX_DROP
        }
        Err(reply::Reason::Direct(down::Reason::Failed)) => {
            count(Counter::DirectFailed);
            TCX_DROP
        }
        Err(reply::Reason::Direct(down::Reason::Early)) => {
            count(Counter::DirectEarly);
            TCX_DROP
        }
    }
}

#[classifier]
pub fn direct(ctx: TcContext) -> i32 {
    decide(direct::direct(&ctx, Link::Ethernet))
}

#[classifier]
pub fn direct_l3(ctx: TcContext) -> i32 {
    decide(direct::direct(&ctx, Link::Bare))
}

#[classifier]
pub fn refuse(ctx: TcContext) -> i32 {
    decide(direct::refuse(&ctx, Link::Ethernet))
}

#[classifier]
pub fn refuse_l3(ctx: TcContext) -> i32 {
    decide(direct::refuse(&ctx, Link::Bare))
}

#[inline(always)]
fn decide(verdict: Result<direct::Verdict, direct::Failed>) -> i32 {
    match verdict {
        Ok(direct::Verdict::Foreign) => TCX_NEXT,
        Ok(direct::Verdict::ToDaemon(why)) => {
            count(why);
            TCX_NEXT
        }
        Ok(direct::Verdict::Answer { out, why }) => {
            count(why);
            match out {
                Out::Back(device) => redirect(device, 0),
                Out::ByRoute(device) => redirect_by_route(device),
            }
        }
        Ok(direct::Verdict::ToApp { device, what }) => {
            count(what);
            redirect(device, BPF_F_INGRESS.into())
        }
        Ok(direct::Verdict::Done(what)) => {
            count(what);
            TCX_DROP
        }
        Err(direct::Failed) => {
            count(Counter::DirectFailed);
            TCX_DROP
        }
    }
}

#[sock_ops]
pub fn accepted(ctx: SockOpsContext) -> u32 {
    direct::accepted::accepted(&ctx);
    1
}

/// Run by the daemon, twice a second: it is there.
#[classifier]
pub fn beat(ctx: TcContext) -> i32 {
    // SAFETY: takes nothing.
    maps::set_beat(unsafe { bpf_ktime_get_coarse_ns() });
    admit::guard::look_at_lo(&ctx);
    TCX_NEXT
}

/// Run by the daemon, after direct connections that are over.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    direct::sweep::sweep(&ctx);
    direct::sweep::sweep_pending();
    TCX_NEXT
}

#[classifier]
pub fn inject(ctx: TcContext) -> i32 {
    match inject::inject(&ctx) {
        Ok(inject::Verdict::Forwarded) => TCX_NEXT,
        Ok(inject::Verdict::Lo) => {
            count(Counter::InjectSteered);
            ctx.set_mark(maps::mark());
            redirect(LO, BPF_F_INGRESS.into())
        }
        Ok(inject::Verdict::Here(delivery)) => {
            count(Counter::InjectSteered);
            deliver_by(delivery)
        }
        Ok(inject::Verdict::Beyond(device)) => {
            count(Counter::InjectForwarded);
            redirect_by_route(device)
        }
        Err(inject::Reason::NoRoute) => {
            count(Counter::InjectNoRoute);
            TCX_DROP
        }
        Err(inject::Reason::Stray) => {
            count(Counter::InjectStray);
            TCX_DROP
        }
        Err(inject::Reason::NoHeader) => {
            count(Counter::InjectFailed);
            TCX_DROP
        }
    }
}

#[classifier]
pub fn deliver(ctx: TcContext) -> i32 {
    if ctx::mark(&ctx) != maps::mark() {
        return TCX_NEXT;
    }
    ctx.set_mark(0);
    match ctx::version(&ctx) {
        Some(version) => deliver_by(deliver::deliver(&ctx, version)),
        None => TCX_NEXT,
    }
}

/// Nearly whatever it says, the packet goes on: without a socket the kernel answers RST by itself.
#[inline(always)]
fn deliver_by(delivery: Result<deliver::Verdict, deliver::Reason>) -> i32 {
    match delivery {
        Ok(deliver::Verdict::Later) => {}
        Ok(deliver::Verdict::Found) => count(Counter::DeliverFound),
        Ok(deliver::Verdict::Assigned) => count(Counter::DeliverAssigned),
        Err(deliver::Reason::NoTarget) => count(Counter::DeliverNoTarget),
        Err(deliver::Reason::NoListener) => count(Counter::DeliverNoListener),
        Err(deliver::Reason::Unreadable | deliver::Reason::AssignFailed) => {
            count(Counter::DeliverFailed);
        }
        Err(deliver::Reason::Taken) => {
            count(Counter::DeliverTaken);
            return TCX_DROP;
        }
    }
    TCX_NEXT
}

#[sk_lookup]
pub fn dispatch(ctx: SkLookupContext) -> u32 {
    match dispatch::dispatch(&ctx) {
        Ok(dispatch::Verdict::Foreign | dispatch::Verdict::Steered) => sk_action::SK_PASS,
        Ok(dispatch::Verdict::Accepted) => {
            count(Counter::DispatchAccepted);
            sk_action::SK_PASS
        }
        Err(dispatch::Reason::Refused { service, balancer }) => {
            count(Counter::DispatchRefused);
            log_refusal(&ctx, service, &balancer);
            sk_action::SK_DROP
        }
        Err(dispatch::Reason::NoListener) => {
            count(Counter::DispatchNoListener);
            sk_action::SK_DROP
        }
        Err(dispatch::Reason::DaemonDown) => {
            count(Counter::DaemonDown);
            sk_action::SK_DROP
        }
    }
}

/// One line a second and CPU, however many are refused.
#[inline(always)]
fn log_refusal(ctx: &SkLookupContext, service: u32, balancer: &Addr) {
    // SAFETY: a helper without arguments.
    if !maps::may_log(unsafe { bpf_ktime_get_ns() }) {
        return;
    }
    match balancer.v4() {
        Some(v4) => warn!(
            ctx,
            "refused {:i}: not in the allowlist of service {}",
            u32::from_be(v4),
            service
        ),
        None => {
            let [a, b, c, d] = balancer.words().map(u32::to_ne_bytes);
            let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [a, b, c, d];
            let octets = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
            warn!(
                ctx,
                "refused {:i}: not in the allowlist of service {}", octets, service
            );
        }
    }
}

/// Out by `device`; the kernel finds the neighbour.
#[inline(always)]
fn redirect_by_route(device: u32) -> i32 {
    // SAFETY: without parameters the kernel looks the neighbour up by itself.
    unsafe { bpf_redirect_neigh(device, null_mut(), 0, 0) as i32 }
}

#[inline(always)]
fn redirect(device: u32, flags: u64) -> i32 {
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(device, flags) as i32 }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
