//! While the programs aren't on all devices yet: what an application sends to a client by a device that
//! has none would get there.

use aya_ebpf::programs::SkBuffContext;
use network_types::eth::EtherType;
use proxy_common::Addr;

use crate::maps;

/// Where an address lies in a header.
const SOURCE_V4: usize = 12;
const SOURCE_V6: usize = 8;

/// Whether a packet that starts with its IP header may leave. TCP sends again what may not.
#[inline(always)]
pub fn may_leave(ctx: &SkBuffContext) -> bool {
    let v4 = EtherType::Ipv4 as u16;
    let source = if ctx.skb.protocol() as u16 == v4 {
        ctx.load(SOURCE_V4).map(Addr::from_v4)
    } else {
        ctx.load(SOURCE_V6).map(Addr::from_v6)
    };
    // SAFETY: the kernel hands every program a valid context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    !source.is_ok_and(|source| maps::is_steer(&source)) || maps::is_steered(device)
}
