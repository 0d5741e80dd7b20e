//! A connection has become a socket: the application's, or the daemon's.

use core::ffi::c_int;

use aya_ebpf::{
    helpers::{bpf_getsockopt, bpf_setsockopt},
    programs::SockOpsContext,
};
use proxy_common::{Addr, keep_alive};

use crate::maps;

/// BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB of linux/bpf.h.
const PASSIVE_ESTABLISHED: u32 = 5;
const AF_INET: u32 = 2;

const SOL_SOCKET: c_int = 1;
const SO_KEEPALIVE: c_int = 9;
const SOL_TCP: c_int = 6;
const TCP_KEEPIDLE: c_int = 4;

/// Whatever comes of it, the connection goes on.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) {
    if ctx.op() != PASSIVE_ESTABLISHED {
        return;
    }
    if maps::is_steer(&local(ctx)) {
        spend(ctx);
        keep_alive(ctx);
    } else if maps::is_served(ctx.local_port() as u16) {
        spend(ctx);
    }
}

/// The cookie that it may have been made of makes no second one.
#[inline(always)]
fn spend(ctx: &SockOpsContext) {
    // SAFETY: the kernel hands every program a valid context.
    let (ours, theirs) = unsafe {
        let ops = ctx.ops;
        (
            (&raw const (*ops).snd_nxt).read_volatile(),
            (&raw const (*ops).rcv_nxt).read_volatile(),
        )
    };
    maps::spend(ours, theirs);
}

/// An application that doesn't ask whether its peer is still there would keep the connection of a
/// balancer that has vanished for ever. Where a relay would ask, its own socket does.
#[inline(always)]
fn keep_alive(ctx: &SockOpsContext) {
    if get(ctx, SOL_SOCKET, SO_KEEPALIVE) != 0 {
        return;
    }
    // In this order its timer is set once.
    set(ctx, SOL_TCP, TCP_KEEPIDLE, keep_alive::SECONDS);
    set(ctx, SOL_SOCKET, SO_KEEPALIVE, 1);
}

/// Each field is read by itself: the compiler would merge the loads of two branches, and the verifier
/// refuses what comes of it ("dereference of modified ctx ptr").
#[inline(always)]
fn local(ctx: &SockOpsContext) -> Addr {
    // SAFETY: the kernel hands every program a valid context.
    let (family, v4, v6) = unsafe {
        let ops = ctx.ops;
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).local_ip4).read_volatile(),
            [0, 1, 2, 3].map(|word| (&raw const (*ops).local_ip6[word]).read_volatile()),
        )
    };
    if family == AF_INET {
        Addr::from_v4(v4)
    } else {
        Addr::from_v6(v6)
    }
}

/// 0 also if it can't be told.
#[inline(always)]
fn get(ctx: &SockOpsContext, level: c_int, name: c_int) -> c_int {
    let mut value: c_int = 0;
    let len = size_of_val(&value) as c_int;
    // SAFETY: the kernel writes no more than `len` bytes.
    unsafe { bpf_getsockopt(ctx.ops.cast(), level, name, (&raw mut value).cast(), len) };
    value
}

#[inline(always)]
fn set(ctx: &SockOpsContext, level: c_int, name: c_int, mut value: c_int) {
    let len = size_of_val(&value) as c_int;
    // SAFETY: the kernel reads `len` bytes.
    unsafe { bpf_setsockopt(ctx.ops.cast(), level, name, (&raw mut value).cast(), len) };
}
