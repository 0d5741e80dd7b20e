//! The kernel asks for the neighbour that an application's packet goes to in the name of the packet's
//! source, a steer address, or one of UDP's targets on another link. A router may answer nobody but the hosts of its link (so does Linux with
//! rp_filter=1), so the host asks with an address of its own. In IPv6 the kernel does so by itself.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use network_types::arp::ArpHdr;
use proxy_common::{Addr, Counter};

use crate::{
    ctx::{self, Link, Unreadable},
    lookup::route,
    maps,
    verdict::Verdict,
};

/// What becomes of an ARP packet that leaves.
#[inline(always)]
pub fn asked(ctx: &TcContext) -> Verdict {
    match rename(ctx) {
        Ok(true) => Verdict::pass(Counter::ReplyArp),
        Ok(false) | Err(Unreadable) => Verdict::FOREIGN,
    }
}

#[inline(always)]
fn rename(ctx: &TcContext) -> Result<bool, Unreadable> {
    const REQUEST: [u8; 2] = [0, 1];
    let ArpHdr { oper, spa, tpa, .. } = ctx::peek(ctx, Link::ETHERNET, 0)?;
    let asker = u32::from_ne_bytes(spa);
    let addr = Addr::from_v4(asker);
    if oper != REQUEST || !maps::is_steer(&addr) && !maps::is_target_address(addr) {
        return Ok(false);
    }
    let own = route::own_address(ctx, u32::from_ne_bytes(tpa));
    let Some(own) = own.filter(|own| *own != asker) else {
        return Ok(false);
    };
    ctx::store(ctx, offset_of!(ArpHdr, spa), &own)?;
    Ok(true)
}
