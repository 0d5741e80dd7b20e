//! What an application sends to somebody who isn't to hear it.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use proxy_common::flow::Tuple;

use super::{is_left, outbound::find};
use crate::{clock, maps};

/// Whether what is of no flow leaves from where an application answers clients of balancers alone.
#[inline(always)]
pub fn is_orphan(ctx: &TcContext, datagram: &Tuple) -> bool {
    is_orphan_once(ctx.skb.skb, datagram)
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "is_orphan")]
#[inline(never)]
extern "C" fn is_orphan_once(skb: *mut __sk_buff, datagram: *const Tuple) -> bool {
    // SAFETY: of the caller's, if it isn't null, which the verifier has asked about.
    let Some(datagram) = (unsafe { datagram.as_ref() }) else {
        return false;
    };
    let [_, to] = datagram.addresses();
    (maps::is_exclusive(&datagram.source()) || is_clients(datagram))
        && !to.is_martian()
        && !to.is_nobodys()
        && !maps::is_own(to)
        && !is_left(&TcContext::new(skb))
}

/// Whether it is to a client whom balancers speak for, from another address of the host with the application's port:
/// an application at a wildcard address has connected a socket to him, past the hook that sees where others send.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn is_clients(datagram: &Tuple) -> bool {
    let Some(aim) = maps::exclusive_aim(&datagram.source()) else {
        return false;
    };
    find(
        &Tuple::new(*aim.at(), datagram.destination()),
        clock::seconds(),
    )
    .is_some()
}
