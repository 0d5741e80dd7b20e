//! The kernel's socket lookup.

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use proxy_common::{Endpoint, flow::Tuple};

use crate::ctx::Version;

/// The namespace of the device at which the program runs.
pub const HERE: u64 = BPF_F_CURRENT_NETNS as u64;

/// States of linux/tcp_states.h.
pub const TIME_WAIT: u32 = 6;
pub const LISTEN: u32 = 10;

/// What there is of a connection in this namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Gone,
    /// Only its memory is left, so that late segments are answered.
    TimeWait,
    There,
}

/// Of the connection whose socket hears a segment of this tuple.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn presence(ctx: &TcContext, version: Version, tuple: &Tuple) -> Presence {
    let (source, destination) = (tuple.source(), tuple.destination());
    let state = with_socket(ctx, version, [&source, &destination], HERE, |socket| {
        // SAFETY: the reference that the lookup just took.
        unsafe { (*socket).state }
    });
    match state {
        None | Some(LISTEN) => Presence::Gone,
        Some(TIME_WAIT) => Presence::TimeWait,
        Some(_) => Presence::There,
    }
}

/// Whether anything listens for a segment from `from` to `to`.
#[inline(always)]
pub fn listens(ctx: &TcContext, version: Version, [from, to]: [&Endpoint; 2]) -> bool {
    let listens = with_socket(ctx, version, [from, to], HERE, |socket| {
        // SAFETY: the reference that the lookup just took.
        unsafe { (*socket).state == LISTEN }
    });
    listens.unwrap_or(false)
}

/// Runs `f` on the TCP socket of `netns` that hears a segment from `from` to `to`, if there is one.
/// `netns` is an id, or [`HERE`].
#[inline(always)]
pub fn with_socket<R>(
    ctx: &TcContext,
    version: Version,
    [from, to]: [&Endpoint; 2],
    netns: u64,
    f: impl FnOnce(*mut bpf_sock) -> R,
) -> Option<R> {
    let (mut tuple, len) = tuple(version, from, to)?;
    let skb = ctx.skb.skb.cast();
    // SAFETY: the tuple is filled as far as `len`, which tells the kernel its family.
    let socket = unsafe { bpf_skc_lookup_tcp(skb, &raw mut tuple, len as u32, netns, 0) };
    if socket.is_null() {
        return None;
    }
    let result = f(socket);
    // SAFETY: the lookup took a reference; this is its one release.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(result)
}

/// The lookup's key and its length; none when an address is of the other family.
#[inline(always)]
fn tuple(version: Version, from: &Endpoint, to: &Endpoint) -> Option<(bpf_sock_tuple, usize)> {
    let sport = (from.port() as u16).to_be();
    let dport = (to.port() as u16).to_be();
    // The verifier has to see no leftovers of registers behind an IPv4 tuple.
    let mut addrs = bpf_sock_tuple__bindgen_ty_1 {
        ipv6: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: [0; 4],
            daddr: [0; 4],
            sport: 0,
            dport: 0,
        },
    };
    let len = match version {
        Version::V4 => {
            addrs.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: from.addr().v4()?,
                daddr: to.addr().v4()?,
                sport,
                dport,
            };
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
        }
        Version::V6 => {
            addrs.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: from.addr().words(),
                daddr: to.addr().words(),
                sport,
                dport,
            };
            size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
        }
    };
    let tuple = bpf_sock_tuple {
        __bindgen_anon_1: addrs,
    };
    Some((tuple, len))
}
