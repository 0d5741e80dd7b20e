//! The host's own traffic that would leave by truepeer's route of last resort, which is there for replies
//! alone: it is told what it would be without that route.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use proxy_common::Addr;

use crate::maps;

const ENETUNREACH: i32 = 101;

/// Whether a socket may connect, or send, to this IPv4 address.
#[inline(always)]
pub fn to_v4(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel hands every program a valid context.
    let word = unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() };
    goes(ctx, &Addr::from_v4(word))
}

/// The same of a socket of IPv6, which may mean an IPv4 address.
#[inline(always)]
pub fn to_v6(ctx: &SockAddrContext) -> bool {
    let word = |index: usize| {
        // SAFETY: as above.
        unsafe { (&raw const (*ctx.sock_addr).user_ip6[index]).read_volatile() }
    };
    goes(ctx, &Addr::from_v6([word(0), word(1), word(2), word(3)]))
}

#[inline(always)]
fn goes(ctx: &SockAddrContext, to: &Addr) -> bool {
    if !maps::is_last_resort(to) || is_elsewhere(ctx) || to.is_martian() || maps::has_route(to) {
        return true;
    }
    // SAFETY: takes a number only.
    unsafe { bpf_set_retval(-ENETUNREACH) };
    false
}

/// Of another network namespace, as a container's, or by a device that it has chosen itself.
#[inline(always)]
fn is_elsewhere(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel hands every program a valid context.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: the kernel's socket, or none.
    !is_hosts(ctx) || !socket.is_null() && unsafe { (*socket).bound_dev_if } != 0
}

/// Whether the socket is of this network namespace.
#[inline(always)]
pub fn is_hosts(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel hands every program a valid context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) == maps::host_netns() }
}
