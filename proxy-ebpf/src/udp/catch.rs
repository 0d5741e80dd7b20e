//! Socket lookup in the spoof namespace: what applications send to clients there is the daemon's, whatever
//! its addresses are.

use aya_ebpf::{bindings::sk_action, programs::SkLookupContext};
use network_types::ip::IpProto;

use crate::maps;

const AF_INET: u32 = 2;

#[inline(always)]
pub fn catch(ctx: &SkLookupContext) -> u32 {
    // SAFETY: the kernel hands every program a valid context.
    let (protocol, family) = unsafe { ((*ctx.lookup).protocol, (*ctx.lookup).family) };
    if protocol == IpProto::Udp as u32 {
        // Whatever comes of it: nobody else listens there.
        maps::assign_catcher(ctx, family != AF_INET);
    }
    sk_action::SK_PASS
}
