//! Where a spoofed connection meets the application: a listener bound to 127.0.0.1, ::1 or one
//! address doesn't hear a steer address, so the SYN is assigned to it.
//!
//! Only when the kernel would find nothing by itself: a wildcard listener needs no help, and a
//! SYN for a TIME_WAIT socket has to reach that one, or the same client can't come back.

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use proxy_common::Endpoint;

use crate::{
    maps,
    packet::{self, Syn, Unreadable, Version},
};

pub enum Verdict {
    /// Not the start of a connection: its socket is found by the kernel.
    Later,
    /// The kernel finds a socket by itself.
    Found,
    /// Assigned to the target's listener.
    Assigned,
}

pub enum Reason {
    Unreadable,
    NoTarget,
    NoListener,
    AssignFailed,
}

#[inline(always)]
pub fn deliver(ctx: &TcContext, version: Version) -> Result<Verdict, Reason> {
    let Some(syn) = packet::syn(ctx, version).map_err(|Unreadable| Reason::Unreadable)? else {
        return Ok(Verdict::Later);
    };
    let steered = Endpoint::new(syn.destination, u16::from_be_bytes(syn.destination_port));
    if with_socket(ctx, &syn, &steered, |_| ()).is_some() {
        return Ok(Verdict::Found);
    }
    let target = maps::target(&steered).ok_or(Reason::NoTarget)?;
    let assigned = with_socket(ctx, &syn, &target, |socket| {
        // SAFETY: `socket` is the reference that the lookup just took.
        unsafe { bpf_sk_assign(ctx.skb.skb.cast(), socket.cast(), 0) }
    });
    match assigned {
        None => Err(Reason::NoListener),
        Some(0) => Ok(Verdict::Assigned),
        Some(_) => Err(Reason::AssignFailed),
    }
}

/// Runs `f` on the socket that hears a segment from the SYN's source to `to`, if there is one.
#[inline(always)]
fn with_socket<R>(
    ctx: &TcContext,
    syn: &Syn,
    to: &Endpoint,
    f: impl FnOnce(*mut bpf_sock) -> R,
) -> Option<R> {
    let (mut tuple, len) = tuple(syn, to)?;
    // SAFETY: the tuple is filled as far as `len`, which tells the kernel its family.
    let socket = unsafe {
        bpf_skc_lookup_tcp(
            ctx.skb.skb.cast(),
            &raw mut tuple,
            len as u32,
            BPF_F_CURRENT_NETNS as u64,
            0,
        )
    };
    if socket.is_null() {
        return None;
    }
    let result = f(socket);
    // SAFETY: the lookup took a reference; this is its one release.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(result)
}

/// The lookup key from the SYN's source to `to`, and its length; none when the families differ.
#[inline(always)]
fn tuple(syn: &Syn, to: &Endpoint) -> Option<(bpf_sock_tuple, usize)> {
    let sport = u16::from_ne_bytes(syn.source_port);
    let dport = (to.port() as u16).to_be();
    let (addrs, len) = match syn.version {
        Version::V4 => {
            let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: syn.source.v4()?,
                daddr: to.addr().v4()?,
                sport,
                dport,
            };
            (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of_val(&ipv4))
        }
        Version::V6 => {
            let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: syn.source.words(),
                daddr: to.addr().words(),
                sport,
                dport,
            };
            (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of_val(&ipv6))
        }
    };
    let tuple = bpf_sock_tuple {
        __bindgen_anon_1: addrs,
    };
    Some((tuple, len))
}
