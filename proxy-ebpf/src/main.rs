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

mod deliver;
mod dispatch;
mod handover;
mod inject;
mod maps;
mod packet;
mod reply;
mod route;
mod socket;

use core::ptr::null_mut;

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, sk_action,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_redirect_neigh},
    macros::{classifier, sk_lookup},
    programs::{SkLookupContext, TcContext},
};
use aya_log_ebpf::warn;
use maps::count;
use proxy_common::{Addr, Counter, LO};
use reply::Link;

#[classifier]
pub fn reply(ctx: TcContext) -> i32 {
    steer(reply::reply(&ctx, Link::Ethernet))
}

#[classifier]
pub fn reply_l3(ctx: TcContext) -> i32 {
    steer(reply::reply(&ctx, Link::Bare))
}

#[classifier]
pub fn reply_own(ctx: TcContext) -> i32 {
    steer(reply::reply_own(&ctx))
}

#[classifier]
pub fn reply_remote(ctx: TcContext) -> i32 {
    steer(reply::reply_remote(&ctx, Link::Ethernet))
}

#[classifier]
pub fn reply_remote_l3(ctx: TcContext) -> i32 {
    steer(reply::reply_remote(&ctx, Link::Bare))
}

#[inline(always)]
fn steer(verdict: Result<reply::Verdict, reply::Reason>) -> i32 {
    match verdict {
        Ok(reply::Verdict::Foreign) => TCX_NEXT,
        Ok(reply::Verdict::Steer) => {
            count(Counter::ReplySteered);
            redirect(maps::device(), 0)
        }
        Ok(reply::Verdict::ToBalancer(device)) => {
            count(Counter::HandedDown);
            redirect_by_route(device)
        }
        Err(reply::Reason::NoHeader) => {
            count(Counter::ReplyFailed);
            TCX_DROP
        }
        Err(reply::Reason::Late) => {
            count(Counter::HandedLate);
            TCX_DROP
        }
    }
}

#[classifier]
pub fn forward(ctx: TcContext) -> i32 {
    let Some(version) = packet::version(&ctx) else {
        return TCX_NEXT;
    };
    match handover::forward(&ctx, version) {
        Ok(handover::Forward::Foreign) => TCX_NEXT,
        Ok(handover::Forward::ToApp(device)) => {
            count(Counter::HandedUp);
            redirect(device, BPF_F_INGRESS.into())
        }
        Err(handover::Failed) => {
            count(Counter::HandedFailed);
            TCX_DROP
        }
    }
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
            count_delivery(delivery);
            TCX_NEXT
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
    if packet::mark(&ctx) != maps::mark() {
        return TCX_NEXT;
    }
    ctx.set_mark(0);
    if let Some(version) = packet::version(&ctx) {
        count_delivery(deliver::deliver(&ctx, version));
    }
    TCX_NEXT
}

/// Whatever it says, the packet goes on: without a socket the kernel answers RST by itself.
#[inline(always)]
fn count_delivery(delivery: Result<deliver::Verdict, deliver::Reason>) {
    match delivery {
        Ok(deliver::Verdict::Later) => {}
        Ok(deliver::Verdict::Found) => count(Counter::DeliverFound),
        Ok(deliver::Verdict::Assigned) => count(Counter::DeliverAssigned),
        Err(deliver::Reason::NoTarget) => count(Counter::DeliverNoTarget),
        Err(deliver::Reason::NoListener) => count(Counter::DeliverNoListener),
        Err(deliver::Reason::Unreadable | deliver::Reason::AssignFailed) => {
            count(Counter::DeliverFailed);
        }
    }
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
