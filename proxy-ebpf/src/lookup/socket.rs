//! The kernel's socket lookup.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use proxy_common::flow::Tuple;

use crate::ctx::{self, Version};

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
    let state = with_socket(ctx, version, tuple, HERE, |socket| {
        // SAFETY: the reference that the lookup just took.
        unsafe { (*socket).state }
    });
    match state {
        None | Some(LISTEN) => Presence::Gone,
        Some(TIME_WAIT) => Presence::TimeWait,
        Some(_) => Presence::There,
    }
}

/// The same from a port where no connection is from: who asks for a socket with this finds only a
/// listener, and none of truepeer's (see `dispatch`).
#[inline(always)]
pub const fn from_nobody(tuple: &Tuple) -> Tuple {
    let [from, to] = tuple.addresses();
    let [_, port] = tuple.ports();
    Tuple::from_wire(*from, *to, [0, port])
}

/// Whether an application listens for a segment of this tuple.
#[inline(never)]
pub fn listens(ctx: &TcContext, version: Version, tuple: &Tuple) -> bool {
    let listens = with_socket(ctx, version, &from_nobody(tuple), HERE, |socket| {
        // SAFETY: the reference that the lookup just took.
        unsafe { (*socket).state == LISTEN }
    });
    listens.unwrap_or(false)
}

/// Runs `f` on the TCP socket of `netns` that hears a segment of this tuple, if there is one. Both addresses
/// are of this version: a packet's are, and each family has its own target. `netns` is an id, or [`HERE`].
#[inline(always)]
pub fn with_socket<R>(
    ctx: &TcContext,
    version: Version,
    tuple: &Tuple,
    netns: u64,
    f: impl FnOnce(*mut bpf_sock) -> R,
) -> Option<R> {
    with(ctx, version, tuple, netns, bpf_skc_lookup_tcp, f)
}

/// The same with the UDP socket of this namespace that hears a datagram of this tuple.
#[inline(always)]
pub fn hears<R>(
    ctx: &TcContext,
    version: Version,
    tuple: &Tuple,
    f: impl FnOnce(*mut bpf_sock) -> R,
) -> Option<R> {
    with(ctx, version, tuple, HERE, bpf_sk_lookup_udp, f)
}

/// Whether the UDP socket of this namespace that hears a datagram of this tuple is at a wildcard address.
#[inline(always)]
pub fn hears_at_any(ctx: &TcContext, version: Version, tuple: &Tuple) -> bool {
    let is_at_any = hears(ctx, version, tuple, |socket| {
        // SAFETY: the reference that the lookup just took.
        let [own, _] = unsafe { ctx::addresses(socket, version) };
        own == version.any()
    });
    is_at_any.unwrap_or(false)
}

type LookUp = unsafe fn(*mut c_void, *mut bpf_sock_tuple, u32, u64, u64) -> *mut bpf_sock;

#[inline(always)]
fn with<R>(
    ctx: &TcContext,
    version: Version,
    tuple: &Tuple,
    netns: u64,
    look_up: LookUp,
    f: impl FnOnce(*mut bpf_sock) -> R,
) -> Option<R> {
    let v4;
    let (key, len): (*const bpf_sock_tuple, _) = match version {
        Version::V4 => {
            v4 = V4::new(tuple);
            ((&raw const v4).cast(), V4::LEN)
        }
        Version::V6 => (ptr::from_ref(tuple).cast(), size_of::<Tuple>()),
    };
    let (skb, key) = (ctx.skb.skb.cast(), key.cast_mut());
    // SAFETY: there are `len` bytes at `key`, which the kernel only reads; they tell it the family.
    let socket = unsafe { look_up(skb, key, len as u32, netns, 0) };
    if socket.is_null() {
        return None;
    }
    let result = f(socket);
    // SAFETY: the lookup took a reference; this is its one release.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(result)
}

/// A tuple whose addresses are both IPv4, as the lookup wants it. One of IPv6 is that already.
#[repr(C)]
struct V4 {
    addresses: [u32; 2],
    ports: [u16; 2],
    /// So that the verifier sees no length that reaches behind its end.
    rest: [u32; 6],
}

impl V4 {
    const LEN: usize = 12;

    #[inline(always)]
    const fn new(tuple: &Tuple) -> Self {
        let [source, destination] = tuple.addresses();
        Self {
            addresses: [source.words()[3], destination.words()[3]],
            ports: tuple.ports(),
            rest: [0; 6],
        }
    }
}
