//! What an application sends to somebody who isn't to hear it.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use proxy_common::flow::Tuple;

use super::is_left;
use crate::maps;

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
    maps::is_exclusive(&datagram.source())
        && !to.is_martian()
        && !to.is_nobodys()
        && !maps::is_own(to)
        && !is_left(&TcContext::new(skb))
}
