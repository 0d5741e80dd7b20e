//! truepeer's entry points, and the one table of what the kernel shall do for a verdict.
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
mod clock;
mod ctx;
mod direct;
mod enter;
mod lookup;
mod maps;
mod repeat;
mod segmenter;
mod steer;
mod udp;
mod verdict;
mod wire;

use core::ptr::null_mut;

use aya_ebpf::{
    bindings::{
        BPF_F_INGRESS, sk_action,
        tcx_action_base::{TCX_DROP, TCX_NEXT, TCX_PASS},
        xdp_action,
    },
    helpers::{bpf_redirect, bpf_redirect_neigh},
    macros::{cgroup_skb, cgroup_sock_addr, classifier, sk_lookup, sock_ops, xdp},
    programs::{
        SkBuffContext, SkLookupContext, SockAddrContext, SockOpsContext, TcContext, XdpContext,
    },
};
use maps::{count, link_of};
use proxy_common::{Counter, Life};
use verdict::{Action, Verdict};

#[classifier]
pub fn reply(ctx: TcContext) -> i32 {
    act(steer::reply::reply(&ctx, link_of(&ctx)))
}

#[classifier]
pub fn reply_own(ctx: TcContext) -> i32 {
    act(steer::reply::reply_own(&ctx))
}

#[classifier]
pub fn reply_remote(ctx: TcContext) -> i32 {
    act(steer::reply::reply_remote(&ctx, link_of(&ctx)))
}

#[classifier]
pub fn direct(ctx: TcContext) -> i32 {
    act(direct::direct(&ctx, link_of(&ctx)))
}

#[classifier]
pub fn refuse(ctx: TcContext) -> i32 {
    act(direct::refuse(&ctx, link_of(&ctx)))
}

#[classifier]
#[inline(always)]
pub fn datagrams_in(ctx: TcContext) -> i32 {
    act(udp::inbound(&ctx, link_of(&ctx)))
}

#[classifier]
pub fn datagrams_out(ctx: TcContext) -> i32 {
    act(udp::outbound(&ctx, link_of(&ctx)))
}

#[classifier]
pub fn datagrams_out_own(ctx: TcContext) -> i32 {
    act(udp::outbound_own(&ctx))
}

#[sk_lookup]
pub fn catch(ctx: SkLookupContext) -> u32 {
    udp::catch::catch(&ctx)
}

#[cgroup_skb(ingress)]
pub fn heard(ctx: SkBuffContext) -> i32 {
    udp::heard::heard(&ctx);
    1
}

#[sock_ops]
pub fn accepted(ctx: SockOpsContext) -> u32 {
    direct::accepted::accepted(&ctx);
    1
}

#[cgroup_skb(egress)]
pub fn unsteered(ctx: SkBuffContext) -> i32 {
    steer::unsteered::may_leave(&ctx).into()
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    steer::unrouted::to_v4(&ctx).into()
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    steer::unrouted::to_v6(&ctx).into()
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    (udp::source::v4(&ctx) || steer::unrouted::to_v4(&ctx)).into()
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    (udp::source::v6(&ctx) || steer::unrouted::to_v6(&ctx)).into()
}

/// Run by the daemon, twice a second: it is there.
#[classifier]
pub fn beat(_ctx: TcContext) -> i32 {
    maps::set_life(Life::Beat, clock::nanoseconds());
    TCX_NEXT
}

/// Run by the daemon, after direct connections that are over.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    direct::sweep::sweep(&ctx);
    direct::sweep::sweep_pending();
    TCX_NEXT
}

/// Run by the daemon, for a flow of datagrams that goes by it.
#[classifier]
pub fn place(ctx: TcContext) -> i32 {
    udp::place_daemons(&ctx);
    TCX_NEXT
}

/// Run by the daemon, for a connection of its own that is counted, or over.
#[classifier]
pub fn tally(ctx: TcContext) -> i32 {
    admit::limit::answer_daemon(&ctx);
    TCX_NEXT
}

#[classifier]
pub fn inject(ctx: TcContext) -> i32 {
    act(steer::inject::inject(&ctx))
}

#[classifier]
pub fn deliver(ctx: TcContext) -> i32 {
    act(steer::deliver::deliver(&ctx))
}

#[xdp(frags)]
pub fn guard(ctx: XdpContext) -> u32 {
    match admit::guard::guard(&ctx) {
        Some(why) => {
            count(why);
            xdp_action::XDP_DROP
        }
        None => xdp_action::XDP_PASS,
    }
}

#[sk_lookup]
pub fn dispatch(ctx: SkLookupContext) -> u32 {
    let (action, why) = match admit::dispatch::dispatch(&ctx) {
        Ok(None) => return sk_action::SK_PASS,
        Err(None) => return sk_action::SK_DROP,
        Ok(Some(why)) => (sk_action::SK_PASS, why),
        Err(Some(why)) => (sk_action::SK_DROP, why),
    };
    count(why);
    action
}

#[inline(always)]
fn act(verdict: Verdict) -> i32 {
    let Verdict {
        action,
        device,
        why,
    } = verdict;
    match action {
        Action::Ignore => TCX_NEXT,
        Action::Pass => counted(why, || TCX_NEXT),
        Action::Accept => counted(why, || TCX_PASS),
        Action::Drop => counted(why, || TCX_DROP),
        Action::Out => counted(why, || redirect(device, 0)),
        Action::ByRoute => counted(why, || redirect_by_route(device)),
        Action::In => counted(why, || redirect(device, BPF_F_INGRESS.into())),
    }
}

#[inline(always)]
fn counted(why: Counter, act: impl FnOnce() -> i32) -> i32 {
    count(why);
    act()
}

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
