//! The kernel's socket lookup.

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use proxy_common::Endpoint;

use crate::packet::Version;

/// The namespace of the device at which the program runs.
pub const HERE: u64 = BPF_F_CURRENT_NETNS as u64;

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
